// SPDX-License-Identifier: GPL-2.0-only

//! A look at the module's source: which steps fault injection knows by name (`rust/host/inject.rs`), and that no step that the
//! kernel may refuse goes past it.
//!
//! The names go into the VM, where the tests expect to see each of these steps fail.

use std::{
    collections::BTreeSet,
    fs,
    path::{
        Path,
        PathBuf, //
    },
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::initramfs::Initramfs;

/// The module's source, seen from the checkout.
const HOST: &str = "rust/host";

/// The file that hands out the flags of allocations.
const INJECT: &str = "inject.rs";

/// What names a step that loading takes.
const LOADING: [&str; 1] = ["inject::loading("];

/// What names a step that the calls of user space take.
const CALLS: [&str; 3] = ["inject::account(", "inject::kernel(", "inject::step("];

/// The names of steps.
#[derive(Debug, Default)]
pub struct Steps {
    loading: BTreeSet<String>,
    calls: BTreeSet<String>,
}

impl Steps {
    /// Those in the source of the module in `checkout`.
    pub fn read(checkout: &Path) -> Result<Self> {
        let mut steps = Self::default();
        for (file, text) in sources(checkout)? {
            let code = code(&text).join("\n");
            for (functions, names) in [
                (&LOADING[..], &mut steps.loading),
                (&CALLS[..], &mut steps.calls),
            ] {
                for name in named(&code, functions).with_context(|| file.display().to_string())? {
                    anyhow::ensure!(
                        names.insert(name.clone()),
                        "{}: a second step with the name {name:?}",
                        file.display()
                    );
                }
            }
        }
        Ok(steps)
    }

    /// Puts the names into the file system of a VM, one a line.
    pub fn add_to(&self, archive: &mut Initramfs) {
        for (file, names) in [
            ("steps/loading", &self.loading),
            ("steps/calls", &self.calls),
        ] {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            archive.file(file, names.join("\n").into_bytes());
        }
    }
}

/// The files of the module that are about to take steps, with their text.
fn sources(checkout: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut paths = Vec::new();
    walk(&checkout.join(HOST), &mut paths)?;
    paths.retain(|path| path.file_name().is_none_or(|name| name != INJECT));
    let read = |path: PathBuf| {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((path, text))
    };
    paths.into_iter().map(read).collect()
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The lines that are no comments.
fn code(text: &str) -> Vec<&str> {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines().filter(is_code).collect()
}

/// The words that `functions` are called with.
fn named(code: &str, functions: &[&str]) -> Result<Vec<String>> {
    let calls = functions
        .iter()
        .flat_map(|function| code.split(function).skip(1));
    calls
        .map(|rest| {
            let word = rest.trim_start().strip_prefix('"');
            let name = word.and_then(|word| Some(word.split_once('"')?.0.to_owned()));
            let line = rest.lines().next().unwrap_or_default();
            name.with_context(|| format!("a step without a name of its own: {line}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions that allocate or register something, and may refuse: the kernel's, and those of the module that stand for
    /// one.
    ///
    /// Not among them is `debugfs_create_*`: its callers are to ignore that it fails (`debugfs_create_dir`, `fs/debugfs/inode.c`
    /// of Linux). The module works without the files, and the tests miss one that is not there.
    const MAY_REFUSE: [&str; 13] = [
        "Chunk::largest(",
        "alloc_pages(",
        "get_free_pages_noprof(",
        "anon_inode_getfd(",
        "anon_inode_getfile_fmode(",
        "cpu_pm_register_notifier(",
        "eventfd_ctx_fdget(",
        "get_unused_fd_flags(",
        "misc_register(",
        "mmu_notifier_register(",
        "vm_insert_page(",
        "__cpuhp_setup_state(",
        "CString::try_from_fmt(",
    ];

    /// Functions that are called in one place only, which is a function of [`MAY_REFUSE`], or one of these.
    const WRAPPED: [(&str, &str); 2] = [
        ("alloc_pages_exact_noprof(", "fn reserve("),
        ("Chunk::reserve(", "fn largest("),
    ];

    /// What makes way for one of those. The other functions of `inject` hand out flags, which go with an allocation.
    const STEPS: [&str; 4] = [
        "inject::at(",
        "inject::check(",
        "inject::loading(",
        "inject::step(",
    ];

    /// Lines of code before a call, at most, among which its step is.
    const NEAR: usize = 8;

    /// What is wrong with a source file.
    fn offence(text: &str) -> Option<String> {
        let lines = code(text);
        let own = |line: &&&str| {
            line.replace("bindings::GFP_KERNEL", "")
                .contains("GFP_KERNEL")
        };
        if let Some(line) = lines.iter().find(own) {
            return Some(format!("an allocation with flags of its own: {line}"));
        }
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

    fn checkout() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn every_step_that_may_fail_can_be_made_to_fail() {
        let sources = sources(&checkout()).unwrap();
        assert!(sources.len() > 30, "{HOST} is not the module's");
        for (file, text) in sources {
            if let Some(offence) = offence(&text) {
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

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let steps = Steps::read(&checkout()).unwrap();
        // A file of each kind has names that are found.
        assert!(steps.loading.contains("the registration of /dev/kvm"));
        assert!(steps.calls.contains("a page of a vCPU in user space"));
    }

    #[test]
    fn named_reads_words_and_nothing_else() {
        let names = |text: &str| named(&code(text).join("\n"), &CALLS);
        let text = "inject::step(\"a\")?;\n// inject::step(what)\ninject::kernel(\n    \"b c\",\n)";
        let found: BTreeSet<_> = names(text).unwrap().into_iter().collect();
        assert_eq!(found, BTreeSet::from(["a".to_owned(), "b c".to_owned()]));
        assert!(names("inject::step(what)?;").is_err());
        assert!(names("let flags = inject::account(NAME)?;").is_err());
    }
}
