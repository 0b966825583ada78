// SPDX-License-Identifier: GPL-2.0-only

//! The maintenance instructions of `rust/arch`, by their lines, so that a mutant has a place and none goes without one.
//!
//! An instruction is found by its text in an `asm!`. The sources are the ones that this program was built from.

use crate::listing::ARGUMENT;

/// What begins an instruction that is there for the machine's sake.
const MNEMONICS: [&str; 6] = ["dsb", "isb", "tlbi", "ic", "dc", "msr"];

/// The files: all of `rust/arch` but for the model, which is in `fake/`. A test compares them with what is there.
const SOURCES: [(&str, &str); 6] = [
    (
        "rust/arch/debug.rs",
        include_str!("../../../rust/arch/debug.rs"),
    ),
    (
        "rust/arch/el1.rs",
        include_str!("../../../rust/arch/el1.rs"),
    ),
    (
        "rust/arch/el2.rs",
        include_str!("../../../rust/arch/el2.rs"),
    ),
    (
        "rust/arch/mod.rs",
        include_str!("../../../rust/arch/mod.rs"),
    ),
    (
        "rust/arch/sysreg.rs",
        include_str!("../../../rust/arch/sysreg.rs"),
    ),
    (
        "rust/arch/witness.rs",
        include_str!("../../../rust/arch/witness.rs"),
    ),
];

/// A maintenance instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File.
    pub file: &'static str,
    /// Line, from 1.
    pub line: usize,
    /// Function that it is in.
    pub function: String,
    /// The instruction without its operands, but with a system register or the kind of operation.
    pub text: String,
    /// The comment above it that says why it stays, if nobody misses it.
    pub argument: Option<String>,
}

impl Place {
    /// `file:line`.
    pub fn line(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// All of them.
pub fn all() -> Vec<Place> {
    let of_file = |(file, source): (&'static str, &'static str)| places(file, source);
    SOURCES.into_iter().flat_map(of_file).collect()
}

/// The first instruction with this text in `function` of `file`.
pub fn find(file: &str, function: &str, text: &str) -> Option<Place> {
    all()
        .into_iter()
        .find(|place| (place.file, &*place.function, &*place.text) == (file, function, text))
}

fn places(file: &'static str, source: &str) -> Vec<Place> {
    let mut function = "";
    let mut found = Vec::new();
    let lines: Vec<&str> = source.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        if line.trim().starts_with("//") {
            continue;
        }
        function = declared(line).unwrap_or(function);
        let literals = line.split('"').skip(1).step_by(2);
        for text in literals.filter_map(instruction) {
            found.push(Place {
                file,
                line: index + 1,
                function: function.to_owned(),
                text,
                argument: argument(lines.get(..index).unwrap_or_default()),
            });
        }
    }
    found
}

/// The name of the function that begins in `line`.
fn declared(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ")?;
    let is_start = before.trim().split(' ').all(|word| {
        word.is_empty() || word.starts_with("pub") || matches!(word, "unsafe" | "const" | "extern")
    });
    let end = rest.find(['(', '<'])?;
    is_start.then(|| &rest[..end])
}

/// The maintenance instruction in an assembly statement, if it is one.
fn instruction(statement: &str) -> Option<String> {
    // A local label may stand before it.
    let statement = match statement.split_once(':') {
        Some((label, rest)) if label.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => statement,
    };
    let text = statement.split(',').next()?.trim();
    let mnemonic = text.split(' ').next()?;
    // PSTATE.DAIF is about interrupts.
    let counts = MNEMONICS.contains(&mnemonic) && !text.starts_with("msr daif");
    counts.then(|| text.to_owned())
}

/// The comments in `above`, from its end up to the last line that is blank or ends a block, if they argue.
fn argument(above: &[&str]) -> Option<String> {
    let near = above
        .iter()
        .rev()
        .map(|line| line.trim())
        .take_while(|line| !line.is_empty() && *line != "}");
    let mut words: Vec<&str> = near
        .filter_map(|line| line.strip_prefix("//"))
        .map(|line| line.trim_start_matches('/').trim())
        .collect();
    words.reverse();
    let text = words.join(" ");
    text.contains(ARGUMENT).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
/// Does it; "dsb sy" in a comment is none.
pub(crate) unsafe fn clean(line: usize) {
    unsafe { asm!("dc civac, {}", in(reg) line) };
}

/// It stays, though no mutant dies here.
fn order() {
    unsafe { asm!("2: isb", "msr tcr_el1, {}", "mrs x0, par_el1", "msr daifset, #3") };
}
"#;

    #[test]
    fn places_are_told_by_function_and_line() {
        let found = places("f", SOURCE);
        let told: Vec<_> = found
            .iter()
            .map(|place| (place.line, &*place.function, &*place.text))
            .collect();
        assert_eq!(
            told,
            [
                (4, "clean", "dc civac"),
                (9, "order", "isb"),
                (9, "order", "msr tcr_el1")
            ]
        );
        let argued: Vec<_> = found.iter().map(|place| place.argument.is_some()).collect();
        assert_eq!(argued, [false, true, true]);
    }

    #[test]
    fn places_of_the_sources_are_found() {
        let [debug, el1, el2] = ["debug", "el1", "el2"].map(|name| format!("rust/arch/{name}.rs"));
        let [debug, el1, el2] = [&debug, &el1, &el2];
        assert!(find(debug, "issue", "msr dbgwcr").is_some());
        assert!(find(debug, "issue", "msr mdscr_el1").is_some());
        assert!(find(el1, "issue", "dc civac").is_some());
        assert!(find(el1, "issue", "tlbi vae2is").is_none());
        assert!(find(el2, "issue", "tlbi vae2is").is_some());
        assert!(find(el2, "translate", "isb").is_some());
    }
    /// Every file of `rust/arch`, and every folder in it.
    fn present() -> Vec<String> {
        let arch = concat!(env!("CARGO_MANIFEST_DIR"), "/../../rust/arch");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            format!("rust/arch/{}", entry.unwrap().file_name().to_string_lossy())
        };
        let mut present: Vec<String> = std::fs::read_dir(arch).unwrap().map(name).collect();
        present.sort_unstable();
        present
    }

    /// A new file of `rust/arch` cannot have instructions that nobody takes out.
    #[test]
    fn sources_are_all_of_arch() {
        let known = SOURCES.map(|(file, _)| file.to_owned());
        let mut known: Vec<String> = known.into_iter().chain(["rust/arch/fake".into()]).collect();
        known.sort_unstable();
        assert_eq!(present(), known);
    }

    /// No `asm!` is in a macro that hides the instruction: what begins like one names its register.
    #[test]
    fn places_name_their_registers() {
        let bare = |place: &Place| place.text.starts_with("msr") && !place.text.contains(' ');
        assert_eq!(all().into_iter().find(bare), None);
    }
}
