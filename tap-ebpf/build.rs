//! Compiles the eBPF programs with clang, so that what is embedded is always what `bpf/` says.
//!
//! Downloads nothing and needs no kernel headers beyond those of the C library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const CLANG_NEWEST: u32 = 19;
const CLANG_OLDEST: u32 = 14;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=bpf/tap.bpf.c");
    println!("cargo::rerun-if-changed=bpf/tap.h");
    println!("cargo::rerun-if-env-changed=CLANG");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("cannot build the eBPF programs: {why}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let clang = find_clang()?;
    let object = PathBuf::from(variable("OUT_DIR")?).join("tap.bpf.o");
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    let mut command = Command::new(&clang);
    command
        .args(["-O2", "-g", "-target", target, "-mcpu=v3"])
        .args(["-Wall", "-Wextra", "-Werror"]);
    // Debian keeps <asm/types.h> in a directory per architecture, where a clang that builds for
    // BPF does not look.
    let multiarch = format!(
        "/usr/include/{}-linux-gnu",
        variable("CARGO_CFG_TARGET_ARCH")?
    );
    if Path::new(&multiarch).join("asm/types.h").exists() {
        command.arg("-I").arg(&multiarch);
    }
    command.args(["-c", "bpf/tap.bpf.c", "-o"]).arg(&object);

    let output = command
        .output()
        .map_err(|error| format!("{clang} does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let remedy = if said.contains("file not found") {
        "\ninstall the headers: apt-get install libbpf-dev linux-libc-dev"
    } else {
        ""
    };
    Err(format!("{clang} refused:\n{said}{remedy}"))
}

/// `$CLANG`, else `clang`, else the newest versioned one.
fn find_clang() -> Result<String, String> {
    let candidates = env::var("CLANG")
        .into_iter()
        .chain(["clang".to_owned()])
        .chain(
            (CLANG_OLDEST..=CLANG_NEWEST)
                .rev()
                .map(|n| format!("clang-{n}")),
        );
    for candidate in candidates {
        let answers = Command::new(&candidate).arg("--version").output();
        if answers.is_ok_and(|output| output.status.success()) {
            return Ok(candidate);
        }
    }
    Err(format!(
        "clang is missing, {CLANG_OLDEST} or newer: apt-get install clang libbpf-dev, or set CLANG"
    ))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: run this through cargo"))
}
