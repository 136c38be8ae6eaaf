//! `bib config`.

use crate::home::Home;
use crate::snapshot;

#[test]
fn values_are_shown_with_their_origin() {
    let (home, _node) = Home::with_node();
    std::fs::write(home.path(".config/bib/bib.toml"), "[node]\ntimeout = \"7s\"\n").unwrap();
    let mut command = home.command(["config", "show", "--origin", "--no-color"]);
    command.env("BIB_IDENTITY__KEY", "/k");
    snapshot::check("config-origin", &home.finish(command, b"").ok().stdout);
    let daemon = home.bib(["config", "show", "--daemon", "--origin", "--json"]).ok().json();
    assert_eq!(daemon["origin"], "/etc/bib/bibd.toml:3");
    let own = home.bib(["config", "show", "--json"]).ok().json_lines();
    assert!(own.iter().any(|row| row["key"] == "node.timeout" && row["value"] == "7s"), "quoted once: {own:?}");
    let shown = home.bib(["config", "show"]).ok().stdout;
    assert!(shown.contains("node.timeout = \"7s\"\n"), "{shown}");
    assert_eq!(home.bib(["config", "path"]).ok().stdout.lines().nth(1), Some("$HOME/.config/bib/bib.toml"));
}

#[test]
fn wrong_configuration_stops_every_command_with_its_place() {
    let home = Home::new();
    std::fs::create_dir_all(home.path(".config/bib")).unwrap();
    for (text, message) in [
        ("[node]\nspeed = 5\n", "$HOME/.config/bib/bib.toml:2: there is no setting `node.speed`"),
        ("[node\n", "$HOME/.config/bib/bib.toml:1: "),
        ("output.format = \"xml\"\n", "$HOME/.config/bib/bib.toml:1: output.format: `xml` is none of table, json"),
    ] {
        std::fs::write(home.path(".config/bib/bib.toml"), text).unwrap();
        let ran = home.bib(["config", "show"]).fails(2);
        assert!(ran.stderr.contains(message), "{ran:?}");
    }
    std::fs::write(home.path(".config/bib/bib.toml"), [0xff, 0xfe]).unwrap();
    home.bib(["config", "show"]).fails(2);
    home.bib(["config", "show", "--config", "missing.toml"]).fails(3);
    std::fs::remove_file(home.path(".config/bib/bib.toml")).unwrap();
    home.write("other.toml", "output.format = \"json\"");
    assert_eq!(home.bib(["config", "show", "--config", "other.toml"]).ok().json_lines().len(), 5);
}
