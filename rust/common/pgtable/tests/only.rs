// SPDX-License-Identifier: GPL-2.0-only

//! There is one walker: no other code of host, hyp and common goes from table to table.
//!
//! Who walks must, for each level, address the descriptor of an index, and take the address of the next table out of what it
//! reads there. So outside of `common::pgtable` nobody may make a `Slot`, call `Geometry::decode_pa`, have a mask
//! for the output address of a descriptor, look at the type of one, or name the levels as the kernel's own tables do. Tables
//! of other formats get a `Format`, which sees one descriptor at a time, and this walker. The adversary (`arch/fake`) is left
//! out: it plays the hardware, and must not share code with what it judges.

use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
};

/// Where the code is, from the top of the source tree.
const ROOTS: [&str; 2] = ["rust", "selftests/kmod"];
/// What is not looked at.
const LEFT_OUT: [&str; 2] = ["rust/common/pgtable", "rust/arch/fake"];
/// How the kernel names the levels of its tables.
const LEVELS: [&str; 5] = ["pte", "pmd", "pud", "p4d", "pgdp"];
/// First bits of output addresses: by granule.
const FIRST_BITS: [u32; 3] = [12, 14, 16];
/// Last bits of output addresses, from 39-bit tables to 52-bit ones.
const LAST_BITS: [u32; 6] = [38, 39, 46, 47, 49, 51];

/// All Rust files below `dir`.
fn sources(top: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
    let left_out = |path: &Path| LEFT_OUT.iter().any(|name| path == top.join(name));
    let entries = fs::read_dir(dir).unwrap();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if left_out(&path) {
            continue;
        }
        if path.is_dir() {
            sources(top, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `line` without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
}

/// Whether `word` is a number that takes the output address out of a descriptor.
fn is_address_mask(word: &str) -> bool {
    let digits = word
        .strip_prefix("0x")
        .map(|digits| digits.replace('_', ""));
    let Some(value) = digits.and_then(|digits| u64::from_str_radix(&digits, 16).ok()) else {
        return false;
    };
    let value = if value.leading_ones() > 0 {
        !value
    } else {
        value
    };
    let (first, bits) = (value.trailing_zeros(), value.count_ones());
    let is_run = first + bits + value.leading_zeros() == u64::BITS;
    value != 0 && is_run && FIRST_BITS.contains(&first) && LAST_BITS.contains(&(first + bits - 1))
}

/// Whether `word` names an entry of the kernel's tables.
fn names_level(word: &str) -> bool {
    let lower = word.to_lowercase();
    lower.split('_').any(|part| LEVELS.contains(&part))
}

/// What in `source` only a walker needs, with line numbers.
fn offences(source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().map(code).collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let next = lines.get(index + 1).copied().unwrap_or_default();
        // A slot of a table, not one of a guest's memory.
        let makes_slot = line.split_once("Slot {").is_some_and(|(before, rest)| {
            let pattern = before.trim_end().ends_with("let");
            let field = words(rest).next().or_else(|| words(next).next());
            field == Some("table") && !pattern
        });
        let looks_at_type = line.contains("descriptor & 3") || line.contains("descriptor & 0b11");
        let decodes = line.contains("decode_pa(") || looks_at_type;
        let named = words(line).any(|word| is_address_mask(word) || names_level(word));
        if makes_slot || decodes || named {
            found.push(format!("{}: {}", index + 1, line.trim()));
        }
    }
    found
}

#[test]
fn walker_is_the_only_one() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for root in ROOTS {
        sources(top, &top.join(root), &mut files);
    }
    assert!(files.len() > 30, "only {} files", files.len());
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let place = file.strip_prefix(top).unwrap().display().to_string();
        found.extend(offences(&text).iter().map(|line| format!("{place}:{line}")));
    }
    assert!(found.is_empty(), "a second walker?\n{}", found.join("\n"));
}

#[test]
fn walker_itself_would_be_caught_elsewhere() {
    let walk = include_str!("../walk.rs");
    let geometry = include_str!("../geometry.rs");
    assert!(!offences(walk).is_empty());
    assert!(!offences(geometry).is_empty());
}

#[test]
fn walker_of_another_kind_is_caught() {
    for line in [
        "let next = read(table + index * 8) & 0x0000_ffff_ffff_f000;",
        "const ADDRESS: u64 = 0xffff_ffff_c000;",
        "let pa = descriptor & !0xffff_0000_0000_0fff;",
        "let slot = memory.load(Slot { table, index })?;",
        "let Some(pa) = geometry.decode_pa(descriptor, unit) else {",
        "if level >= 3 || descriptor & 3 != 3 {",
        "let pte = unsafe { bindings::pte_offset_map(pmd, va) };",
    ] {
        assert_eq!(offences(line).len(), 1, "{line}");
    }
    assert_eq!(
        offences("memory.load(Slot {\n    table: next,\n    index,\n})").len(),
        1
    );
}

#[test]
fn walker_is_not_seen_in_other_code() {
    for line in [
        "// The mask 0x0000_ffff_ffff_f000 of a descriptor.",
        "fn load(&self, slot: Slot) -> Result<u64, Error> {",
        "Slot { first_gfn, pages }",
        "let Slot { table, index } = slot;",
        "const LOW: u64 = 0xffff_ffff;",
        "let page = pa & !0xfff;",
        "let accepted = options.adopted;",
    ] {
        assert!(offences(line).is_empty(), "{line}");
    }
}
