// SPDX-License-Identifier: GPL-2.0-only

//! The EL2 image cannot panic: a path to a panic is an error of its link. Here that is tried.
//!
//! `selftests/hyp/panics.rs` is compiled and linked into the image by the very commands that have built it, which Kbuild keeps
//! beside its files.

use std::{
    fs,
    path::Path,
    process::Stdio, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::sandbox::Sandbox;

/// The probe, in the checkout.
const PROBE: &str = "selftests/hyp/panics.rs";

/// Its ways to panic.
const WAYS: [&str; 9] = [
    "panic",
    "assert",
    "index",
    "slice",
    "unwrap",
    "expect",
    "overflow",
    "divide",
    "unreachable",
];

/// What the linker says of one of them: the section that it was told to drop, or what the panic handler refers to.
const REFUSALS: [&str; 2] = [
    "defined in discarded section",
    "eltwo_hyp_has_a_panicking_path",
];

/// Links the image with each way to panic, which must fail for that reason, and with the same function without one, which must not.
/// `image` is the linked image in the output of its build. Calls `verdict` with a name and what is wrong, if anything is.
pub fn check(
    sandbox: &Sandbox,
    checkout: &Path,
    image: &Path,
    mut verdict: impl FnMut(String, Option<String>),
) -> Result<()> {
    let output = image
        .parent()
        .and_then(Path::parent)
        .context("no output directory")?;
    let sandbox = sandbox.clone().with_input(checkout).with_input(output);
    let compile = saved(output, "eltwo_hyp.o")?;
    let link = saved(output, "eltwo_hyp.elf")?;
    let build = |way: &str| -> Result<Option<String>> {
        let script = format!(
            "{} && {}",
            compile_probe(&compile, checkout, way)?,
            link_probe(&link)?
        );
        let mut shell = sandbox.command_with(output, &[("RUSTC_BOOTSTRAP", "1".as_ref())], "sh");
        let result = shell
            .args(["-c", &script])
            .stdin(Stdio::null())
            .output()
            .context("cannot run sh")?;
        let said = String::from_utf8_lossy(&result.stderr).into_owned();
        Ok((!result.status.success()).then_some(said))
    };
    let offence = build("none")?.map(|said| format!("it does not link: {}", said.trim()));
    verdict("image_links_without_a_panic".to_owned(), offence);
    for way in WAYS {
        let offence = match build(way)? {
            None => Some("it links".to_owned()),
            Some(said) if REFUSALS.iter().any(|words| said.contains(words)) => None,
            Some(said) => Some(format!("it fails for another reason: {}", said.trim())),
        };
        verdict(format!("image_with_{way}_does_not_link"), offence);
    }
    Ok(())
}

/// The command that has made a file of the image.
fn saved(output: &Path, file: &str) -> Result<String> {
    let path = output.join(format!("hyp/.{file}.cmd"));
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (_, command) = text
        .lines()
        .next()
        .and_then(|line| line.split_once(" := "))
        .with_context(|| format!("{} has no command", path.display()))?;
    Ok(command.to_owned())
}

/// The compiler's command for the probe instead of the image's crate.
fn compile_probe(command: &str, checkout: &Path, way: &str) -> Result<String> {
    let (flags, _) = command
        .split_once("--crate-type rlib")
        .context("no --crate-type in the command")?;
    Ok(format!(
        "{flags} --cfg 'way=\"{way}\"' '--check-cfg=cfg(way, values(any()))' --crate-type rlib --crate-name eltwo_probe \
         -L hyp --out-dir /tmp --emit=obj=/tmp/probe.o {}",
        checkout.join(PROBE).display()
    ))
}

/// The linker's command with the probe and another output. What follows it checks the result.
fn link_probe(command: &str) -> Result<String> {
    let (flags, _) = command.split_once(" -o ").context("no -o in the command")?;
    Ok(format!(
        "{flags} --undefined=eltwo_probe /tmp/probe.o -o /tmp/probe.elf"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_the_probe_and_nothing_of_the_image() {
        let rustc = "rustc -Copt-level=2 --crate-type rlib --crate-name eltwo_hyp --out-dir hyp/ eltwo_hyp.rs";
        let probe = compile_probe(rustc, Path::new("/tree"), "index").unwrap();
        assert!(probe.starts_with("rustc -Copt-level=2 "));
        assert!(probe.ends_with(" /tree/selftests/hyp/panics.rs"));
        assert!(!probe.contains("eltwo_hyp"));
        let ld = "ld -pie hyp/eltwo_hyp.o -o hyp/eltwo_hyp.elf; if readelf; then exit 1; fi";
        let linked = link_probe(ld).unwrap();
        assert!(linked.starts_with("ld -pie hyp/eltwo_hyp.o ") && !linked.contains("readelf"));
        assert!(compile_probe("cc", Path::new("/tree"), "index").is_err());
    }
}
