//! The deterministic world of bib: seeded randomness, virtual time, a network and a disk with faults, memory
//! implementations of the ports, conformance suites, reference models and fuzz targets. Never shipped.

pub mod disk;
pub mod fuzz;
pub mod memory;
pub mod net;
pub mod node;
pub mod reference;
pub mod rng;
pub mod suite;
pub mod swarm;
pub mod world;
