//! The embeddable node of bib.
