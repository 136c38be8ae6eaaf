//! `bib man`.

use crate::home::Home;

#[test]
fn the_manual_page_shows_every_command_with_its_flags() {
    let home = Home::new();
    let page = home.bib(["man"]).ok().stdout;
    for part in [
        ".TH \"BIB\" \"1\"",
        ".SS bib topic create\n",
        ".SS bib admin backup list\n",
        "\\fB\\-\\-bump\\fR \\fIpart\\fR",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // What stands in no declaration.
    assert!(page.contains(".SH EXIT STATUS\n") && page.contains("\\fB\\-\\-json\\fR"));
}
