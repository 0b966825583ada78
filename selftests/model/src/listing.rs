// SPDX-License-Identifier: GPL-2.0-only

//! From an instruction of the image back to its line in `asm/`.
//!
//! Assembly that Rust brings in by `global_asm!` has no line table, so instructions are counted from the label of their
//! function on. A line counts only if its mnemonic is that of the instruction.

use crate::{
    elf::Image,
    insn, //
};

/// The sources, by name.
const SOURCES: [(&str, &str); 2] = [
    ("asm/idmap.S", include_str!("../../../asm/idmap.S")),
    ("asm/vectors.S", include_str!("../../../asm/vectors.S")),
];

/// Whether the function called `name` is in one of the sources.
pub fn knows(name: &str) -> bool {
    let label = format!("{name}:");
    let is_there = |source: &str| source.lines().any(|line| line == label);
    SOURCES.iter().any(|(_, source)| is_there(source))
}

/// `file:line` of the instruction at `offset`.
pub fn line_of(image: &Image, offset: u64) -> Option<String> {
    let (function, distance) = image.locate(offset)?;
    let text = insn::disassemble(image.word(offset)?);
    let mnemonic = text.split_whitespace().next()?;
    SOURCES.iter().find_map(|(file, source)| {
        let (line, statement) = statements(source, &function.name).nth(distance as usize / 4)?;
        let same = statement.split_whitespace().next() == Some(mnemonic);
        same.then(|| format!("{file}:{line}"))
    })
}

/// The instructions behind the label `name` with their line numbers, up to the end of the function.
fn statements<'a>(source: &'a str, name: &str) -> impl Iterator<Item = (usize, &'a str)> {
    let label = format!("{name}:");
    let end = format!(".size\t{name},");
    (1..)
        .zip(source.lines())
        .skip_while(move |(_, line)| *line != label)
        .skip(1)
        .map(|(number, line)| (number, line.split("//").next().unwrap_or("")))
        .take_while(move |(_, line)| !line.trim().starts_with(&end))
        .map(|(number, line)| (number, without_label(line.trim())))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('.'))
}

/// `line` behind a local label, if it has one.
fn without_label(line: &str) -> &str {
    match line.split_once(':') {
        Some((label, rest)) if label.bytes().all(|byte| byte.is_ascii_digit()) => rest.trim(),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
other:
\tisb
start:
\tmov\tx0, xzr\t\t// a comment
\t// more of it
1:\tdsb\tnsh
2:
\tisb
\t.size\tstart, . - start
\tnop
";

    #[test]
    fn statements_of_function_have_their_lines() {
        let found: Vec<_> = statements(SOURCE, "start").collect();
        assert_eq!(found, [(4, "mov\tx0, xzr"), (6, "dsb\tnsh"), (8, "isb")]);
    }

    #[test]
    fn knows_labels_of_sources_only() {
        assert!(knows("eltwo_init"));
        assert!(!knows("eltwo_nothing"));
    }

    #[test]
    fn statements_of_unknown_function_are_none() {
        assert_eq!(statements(SOURCE, "end").count(), 0);
    }
}
