//! Every configuration that the README, docs/policies.md and docs/alerts.md show is one that calltap takes.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The blocks of one language in a page.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    page.split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

#[test]
fn configurations_are_valid() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let page = fs::read_to_string(readme).expect("README.md can be read");
    let mut configurations: Vec<String> = blocks(&page, "toml")
        .into_iter()
        .map(str::to_owned)
        .collect();
    assert!(configurations.len() >= 2, "the README shows configurations");
    let around = "listeners = [{ address = \"127.0.0.1:8080\" }]\n\
        routes = [{ upstream = \"u\" }]\nupstreams.u.endpoints = [\"127.0.0.1:9000\"]\n";
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alerts.md");
    let alerts = fs::read_to_string(&alerts).expect("docs/alerts.md can be read");
    for block in blocks(&alerts, "toml") {
        configurations.push(format!("{around}{block}"));
    }
    assert!(configurations.len() >= 3, "docs/alerts.md shows one");

    let dir = tempfile::tempdir().expect("a temporary directory");
    let tls = dir.path().join("tls");
    fs::create_dir(&tls).expect("a directory");
    let made =
        rcgen::generate_simple_self_signed(["api.example.com".to_owned()]).expect("a certificate");
    for (name, pem) in [
        ("chain.pem", made.cert.pem()),
        ("datapower-ca.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
    ] {
        fs::write(tls.join(name), pem).expect("write");
    }
    fs::write(dir.path().join("webhook.secret"), "secret\n").expect("write");
    for text in configurations {
        let file = dir.path().join("calltap.toml");
        fs::write(&file, &text).expect("write");
        let output = Command::new(env!("CARGO_BIN_EXE_calltap"))
            .args(["check", "--config", "calltap.toml"])
            .current_dir(dir.path())
            .output()
            .expect("calltap runs");
        assert!(
            output.status.success(),
            "{}\nof:\n{text}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn every_rule_in_the_documentation_is_one() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies.md");
    let page = fs::read_to_string(page).expect("docs/policies.md can be read");
    let rules = blocks(&page, "toml");
    assert!(rules.len() >= 4, "docs/policies.md shows rules");
    let dir = tempfile::tempdir().expect("a temporary directory");
    for rule in rules {
        let file = dir.path().join("calltap.toml");
        let around = "listeners = [{ address = \"127.0.0.1:8080\" }]\n\
             routes = [{ upstream = \"api\" }]\n\
             upstreams.api.endpoints = [\"127.0.0.1:9000\"]\n";
        fs::write(&file, format!("{around}{rule}")).expect("write");
        let output = Command::new(env!("CARGO_BIN_EXE_calltap"))
            .args(["check", "--config"])
            .arg(&file)
            .output()
            .expect("calltap runs");
        assert!(
            output.status.success(),
            "{}\nof:\n{rule}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
