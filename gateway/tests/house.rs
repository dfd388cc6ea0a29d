//! The shape of the house: who may depend on whom, and who may be unsafe.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every edge there may be between our packages. Growing another is a decision, to be written down
/// in docs/decisions.md.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("calltap-correlate", &[]),
    ("calltap-tap", &["calltap-correlate"]),
    ("calltap-policies", &["calltap-correlate"]),
    (
        "calltap",
        &["calltap-correlate", "calltap-policies", "calltap-tap"],
    ),
    ("calltap-loadtest", &["calltap-policies"]),
];

fn members() -> BTreeMap<String, (PathBuf, toml::Table)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let workspace = read(&root.join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array();
    members
        .expect("a list of members")
        .iter()
        .map(|member| {
            let folder = root.join(member.as_str().expect("a folder"));
            let manifest = read(&folder.join("Cargo.toml"));
            let name = manifest["package"]["name"].as_str().expect("a name");
            (name.to_owned(), (folder, manifest))
        })
        .collect()
}

fn read(path: &Path) -> toml::Table {
    let text = fs::read_to_string(path).expect("a manifest");
    text.parse().expect("TOML")
}

#[test]
fn packages_depend_only_as_designed() {
    let members = members();
    let known: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    assert!(
        members.keys().map(String::as_str).eq(known.keys().copied()),
        "the workspace has other packages than the design"
    );
    for (name, (_, manifest)) in &members {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let dependencies = manifest.get(section).and_then(toml::Value::as_table);
            for dependency in dependencies.into_iter().flat_map(toml::Table::keys) {
                let is_ours = members.contains_key(dependency);
                assert!(
                    !is_ours || known[name.as_str()].contains(&dependency.as_str()),
                    "{name} must not depend on {dependency} ({section})"
                );
            }
        }
    }
}

#[test]
fn only_the_tap_is_unsafe() {
    for (name, (folder, _)) in members() {
        for entry in ["src/lib.rs", "src/main.rs"] {
            let Ok(text) = fs::read_to_string(folder.join(entry)) else {
                continue;
            };
            let forbids = text.contains("#![forbid(unsafe_code)]");
            assert_eq!(forbids, name != "calltap-tap", "{name}/{entry}");
        }
    }
}
