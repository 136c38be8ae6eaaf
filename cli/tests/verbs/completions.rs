//! `bib completions`.

use crate::home::Home;

#[test]
fn scripts_are_printed_for_the_three_shells() {
    let home = Home::new();
    for (shell, mark) in [("bash", "complete -o default"), ("zsh", "#compdef bib"), ("fish", "complete -c bib")] {
        let script = home.bib(["completions", shell]).ok().stdout;
        assert!(script.contains(mark) && script.contains("versions"), "{shell}");
    }
}
