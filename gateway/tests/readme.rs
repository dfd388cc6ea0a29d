//! Every configuration that the README and docs/policies.md show is one that calltap takes.

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
    let configurations = blocks(&page, "toml");
    assert!(configurations.len() >= 2, "the README shows configurations");

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
    for text in configurations {
        let file = dir.path().join("calltap.toml");
        fs::write(&file, text).expect("write");
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
