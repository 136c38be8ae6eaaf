//! What a machine says on its serial console, as text in which something is awaited.
//!
//! Invariant: what was found is passed, so that the same words are awaited again after a second boot.

/// The text of a console that has not been passed yet.
#[derive(Debug, Default)]
pub struct Console {
    text: String,
    /// Of an escape sequence that has not ended yet.
    escape: Option<Vec<u8>>,
    /// Bytes of a letter that has not ended yet.
    partial: Vec<u8>,
}

impl Console {
    /// Takes what came: without colours and movements of a cursor, and in whatever pieces.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match (&mut self.escape, byte) {
                (None, 0x1b) => self.escape = Some(Vec::new()),
                (None, b'\r') => {}
                (None, byte) => self.partial.push(byte),
                (Some(seen), byte) => {
                    let begins = seen.is_empty() && matches!(byte, b'[' | b'(' | b')');
                    let goes_on = matches!(seen.first(), Some(b'[')) && !(0x40..=0x7e).contains(&byte);
                    if begins || goes_on { seen.push(byte) } else { self.escape = None }
                }
            }
        }
        let whole = match std::str::from_utf8(&self.partial) {
            Ok(_) => self.partial.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.partial.len(),
        };
        let rest = self.partial.split_off(whole);
        self.text.push_str(&String::from_utf8_lossy(&self.partial));
        self.partial = rest;
    }

    /// Passes everything up to the end of `words`, when they came; returns what was before them.
    pub fn pass(&mut self, words: &str) -> Option<String> {
        let at = self.text.find(words)?;
        let rest = self.text.split_off(at + words.len());
        let mut before = std::mem::replace(&mut self.text, rest);
        before.truncate(at);
        Some(before)
    }

    /// The last lines, for a failure.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(pieces: &[&[u8]]) -> Console {
        let mut console = Console::default();
        for piece in pieces {
            console.push(piece);
        }
        console
    }

    #[test]
    fn words_are_found_whatever_the_pieces_they_come_in() {
        let mut console = console(&[b"Star", b"ting bi", b"bd\r\nbib-appliance: up\r\n"]);
        assert_eq!(console.pass("bib-appliance: ").unwrap(), "Starting bibd\n");
        assert_eq!(console.pass("\n").unwrap(), "up");
        assert_eq!(console.pass("\n"), None);
    }

    #[test]
    fn what_was_passed_is_not_found_again() {
        let mut console = console(&[b"ready\n"]);
        assert!(console.pass("ready").is_some());
        assert!(console.pass("ready").is_none());
        console.push(b"ready\n");
        assert!(console.pass("ready").is_some());
    }

    #[test]
    fn colours_and_movements_are_left_out() {
        let mut console = console(&[b"[\x1b[0;32m  OK  \x1b[0", b"m] \x1b(Bup\x1b[2J\x1bcx\n"]);
        assert_eq!(console.pass("\n").unwrap(), "[  OK  ] upx");
    }

    #[test]
    fn letters_of_several_bytes_may_be_cut_and_wrong_ones_pass() {
        let mut console = console(&[b"\xf0\x9f", b"\x94\x90 New\n", b"\xff\xfe!\n"]);
        assert_eq!(console.pass("\n").unwrap(), "\u{1f510} New");
        assert!(console.pass("\n").unwrap().ends_with('!'));
    }
}
