// SPDX-License-Identifier: GPL-2.0-only

//! A look at the module's source: no step that the kernel may refuse goes past fault injection (`rust/host/inject.rs`).

use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
};

/// Functions of the kernel that allocate or register something, and may refuse.
const MAY_REFUSE: [&str; 11] = [
    "alloc_pages(",
    "alloc_pages_exact_noprof(",
    "get_free_pages_noprof(",
    "anon_inode_getfd(",
    "anon_inode_getfile_fmode(",
    "cpu_pm_register_notifier(",
    "eventfd_ctx_fdget(",
    "misc_register(",
    "mmu_notifier_register(",
    "__cpuhp_setup_state(",
    "CString::try_from_fmt(",
];

/// The file that hands out the flags of allocations.
const INJECT: &str = "inject.rs";

fn sources(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
}

/// What is wrong with a source file.
fn offence(text: &str) -> Option<String> {
    let code = || {
        text.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
    };
    let own = |line: &&str| {
        line.replace("bindings::GFP_KERNEL", "")
            .contains("GFP_KERNEL")
    };
    if let Some(line) = code().find(own) {
        return Some(format!("an allocation with flags of its own: {line}"));
    }
    let calls = code()
        .filter(|line| MAY_REFUSE.iter().any(|function| line.contains(function)))
        .count();
    let steps = code()
        .filter(|line| line.contains("inject::"))
        .filter(|line| !line.trim_start().starts_with("use "))
        .count();
    (calls > steps).then(|| format!("{calls} calls that may be refused, {steps} steps"))
}

#[test]
fn every_step_that_may_fail_can_be_made_to_fail() {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rust/host");
    let mut files = Vec::new();
    sources(&host, &mut files);
    assert!(files.len() > 30, "{} is not the module's", host.display());
    for file in files {
        if file.file_name().is_some_and(|name| name == INJECT) {
            continue;
        }
        if let Some(offence) = offence(&fs::read_to_string(&file).unwrap()) {
            panic!("{}: {offence}", file.display());
        }
    }
}

#[test]
fn step_without_injection_is_found() {
    assert!(offence("let list = KVec::with_capacity(4, GFP_KERNEL)?;").is_some());
    assert!(offence("bindings::misc_register(device)").is_some());
    let good = "inject::step(\"the device\")?;\n// GFP_KERNEL\nbindings::misc_register(device)";
    assert_eq!(offence(good), None);
}
