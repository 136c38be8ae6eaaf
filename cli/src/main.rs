//! The command line of bib.

fn main() {}
