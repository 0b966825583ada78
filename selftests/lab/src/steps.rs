// SPDX-License-Identifier: GPL-2.0-only

//! A look at the module's source: no step that the kernel may refuse goes past fault injection (`rust/host/inject.rs`).

use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
};

/// Functions that allocate or register something, and may refuse: the kernel's, and those of the module that stand for one.
const MAY_REFUSE: [&str; 12] = [
    "Chunk::reserve(",
    "alloc_pages(",
    "get_free_pages_noprof(",
    "anon_inode_getfd(",
    "anon_inode_getfile_fmode(",
    "cpu_pm_register_notifier(",
    "eventfd_ctx_fdget(",
    "get_unused_fd_flags(",
    "misc_register(",
    "mmu_notifier_register(",
    "__cpuhp_setup_state(",
    "CString::try_from_fmt(",
];

/// Functions of the kernel that are called in one place only, which is a function of [`MAY_REFUSE`].
const WRAPPED: [(&str, &str); 1] = [("alloc_pages_exact_noprof(", "fn reserve(")];

/// What makes way for one of those. The other functions of `inject` hand out flags, which go with an allocation.
const STEPS: [&str; 3] = ["inject::check(", "inject::loading(", "inject::step("];

/// Lines of code before a call, at most, among which its step is.
const NEAR: usize = 8;

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
    let lines: Vec<&str> = code().collect();
    without_step(&lines).or_else(|| unwrapped(&lines))
}

/// A call that may be refused and has no step of its own right before it.
fn without_step(lines: &[&str]) -> Option<String> {
    let mut steps = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        if STEPS.iter().any(|step| line.contains(step)) {
            steps.push(number);
        }
        if MAY_REFUSE.iter().any(|function| line.contains(function)) {
            // Each step is that of one call.
            let step = steps.pop();
            if step.is_none_or(|step| number - step > NEAR) {
                return Some(format!("a call that may be refused without a step: {line}"));
            }
        }
    }
    None
}

/// A call of a function of [`WRAPPED`] that is not in its place.
fn unwrapped(lines: &[&str]) -> Option<String> {
    for (function, place) in WRAPPED {
        for (number, line) in lines.iter().enumerate() {
            let before = &lines[number.saturating_sub(NEAR)..number];
            if line.contains(function) && !before.iter().any(|line| line.contains(place)) {
                return Some(format!("a call that is to be in {place}: {line}"));
            }
        }
    }
    None
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
    const CALL: &str = "bindings::misc_register(device)";
    const STEP: &str = "inject::step(\"the device\")?;";
    for bad in [
        "let list = KVec::with_capacity(4, GFP_KERNEL)?;",
        CALL,
        "let flags = inject::account(\"a box\")?;\nbindings::misc_register(device)",
        "let pages = bindings::alloc_pages_exact_noprof(bytes, flags);",
        &format!("{STEP}\n{CALL}\n{CALL}"),
        &format!("{CALL}\n{STEP}"),
        &format!("{STEP}\n{STEP}\n{}{CALL}", "x();\n".repeat(NEAR)),
    ] {
        assert!(offence(bad).is_some(), "{bad}");
    }
    for good in [
        &format!("{STEP}\n// GFP_KERNEL\n{CALL}"),
        &format!("{STEP}\n{CALL}\n{STEP}\n{CALL}"),
        "fn reserve(bytes: usize) {\nbindings::alloc_pages_exact_noprof(bytes, flags)",
    ] {
        assert_eq!(offence(good), None, "{good}");
    }
}
