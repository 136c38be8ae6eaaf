//! Golden fixtures: for every encoding that leaves the process, bytes that an earlier build wrote.
//!
//! Each file in `core/fixtures` holds one kind of encoding, a line for each example: its name and its bytes (or its
//! text). A test encodes the same example today, must get the same bytes, and must read the stored ones back; of a
//! versioned encoding it also checks that the next version is refused. A new variant without an example does not
//! compile. To add examples, or to change a format on purpose, run
//! `BIB_BLESS=1 cargo test -p bib-core --test golden` and look at the difference: a changed line is a changed format.

#![allow(clippy::unwrap_used, reason = "tests")]

mod control;
mod keys;
mod secrets;
mod stored;
mod text;
mod vocabulary;
mod wire;

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};
use std::path::Path;

use bib_core::encode::{DecodeError, Versioned, decode, encode};
use bib_core::time::Timestamp;

/// A time for all examples.
const TIME: Timestamp = Timestamp(1_795_530_245_000_000);

/// Reads bytes back; whether they are the value of the example.
type Read = Box<dyn Fn(&[u8]) -> Result<bool, DecodeError>>;

/// One example.
struct Case {
    name: String,
    bytes: Vec<u8>,
    read: Read,
    is_versioned: bool,
}

impl Case {
    /// An example of a versioned encoding.
    fn versioned<T: Versioned + PartialEq + 'static>(name: impl Into<String>, value: T) -> Self {
        let bytes = encode(&value);
        let read = Box::new(move |bytes: &[u8]| decode::<T>(bytes).map(|read| read == value));
        Self { name: name.into(), bytes, read, is_versioned: true }
    }

    /// An example of bytes that nothing decodes.
    fn plain(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        let same = bytes.clone();
        Self { name: name.into(), bytes, read: Box::new(move |read| Ok(read == same)), is_versioned: false }
    }
}

/// An enum that knows the names of its variants.
trait Variants {
    /// All of them.
    const VARIANTS: &'static [&'static str];

    /// The one that a value is.
    fn variant(&self) -> &'static str;
}

/// Names all variants of an enum; one that is missing does not compile.
macro_rules! variants {
    ($type:ty: $($variant:ident)*) => {
        impl crate::Variants for $type {
            const VARIANTS: &'static [&'static str] = &[$(stringify!($variant)),*];

            fn variant(&self) -> &'static str {
                type This = $type;
                match self {
                    $(This::$variant { .. } => stringify!($variant),)*
                }
            }
        }
    };
}
pub(crate) use variants;

/// Names examples of an enum by their variants, and checks that each variant has one.
fn named<T: Variants + Debug>(of: &str, values: Vec<T>) -> Vec<(String, T)> {
    let seen: BTreeSet<&str> = values.iter().map(Variants::variant).collect();
    let all: BTreeSet<&str> = T::VARIANTS.iter().copied().collect();
    assert_eq!(seen, all, "each variant of {of} has an example");
    let mut n_before = std::collections::BTreeMap::new();
    let mut name = |value: &T| {
        let n: &mut u32 = n_before.entry(value.variant()).or_default();
        *n += 1;
        if *n == 1 { format!("{of}.{}", value.variant()) } else { format!("{of}.{}.{n}", value.variant()) }
    };
    values.into_iter().map(|value| (name(&value), value)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The lines of a fixture, written first when they are blessed.
fn fixture(name: &str, today: &[(String, String)]) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{name}.txt"));
    if std::env::var_os("BIB_BLESS").is_some() {
        let lines = today.iter().map(|(name, bytes)| format!("{name} {bytes}\n"));
        std::fs::write(&path, lines.collect::<String>()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let line = |line: &str| line.split_once(' ').map(|(name, bytes)| (name.to_owned(), bytes.to_owned())).unwrap();
    text.lines().map(line).collect()
}

const ADVICE: &str = "a format changed: if that is meant, its version and its migration with it, see core/tests/golden";

/// Compares today's encoding of the examples with the fixture, and reads the fixture.
fn check(fixture_name: &str, cases: &[Case]) {
    let today: Vec<(String, String)> = cases.iter().map(|case| (case.name.clone(), hex(&case.bytes))).collect();
    let names: BTreeSet<&String> = today.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), today.len(), "names of examples are unique");
    let stored = fixture(fixture_name, &today);
    let names = |lines: &[(String, String)]| lines.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&stored), names(&today), "{fixture_name}: every example is stored; {ADVICE}");
    for (case, (name, bytes)) in cases.iter().zip(&stored) {
        assert_eq!(&hex(&case.bytes), bytes, "{name}: {ADVICE}");
        let mut bytes = unhex(bytes);
        assert_eq!((case.read)(&bytes), Ok(true), "{name} reads back");
        if case.is_versioned {
            bytes[0] += 1;
            let refused = (case.read)(&bytes);
            assert!(matches!(refused, Err(DecodeError::Unsupported { .. })), "{name} of the next version: {refused:?}");
            bytes[0] -= 1;
            bytes.push(0);
            assert!((case.read)(&bytes).is_err(), "{name} with a byte too many");
        }
    }
}
