// SPDX-License-Identifier: GPL-2.0-only

//! Checks the table of names that the module carries (`hyp/eltwo_hyp.syms`) against the EL2 image that it was made from.

use std::{
    collections::BTreeMap,
    fmt::Write as _, //
};

use anyhow::{
    ensure,
    Context as _,
    Result, //
};
use object::{
    Object as _,
    ObjectSection as _,
    ObjectSymbol as _,
    SectionKind, //
};

/// What stands before the build ID in its note: three words and a name of four bytes.
const NOTE_HEAD: usize = 16;

/// Fails if `table` is not that of the image `elf`: build ID, and offset, size and name of every function.
pub fn check(table: &str, elf: &[u8]) -> Result<()> {
    let elf = object::File::parse(elf)?;
    let mut lines = table.lines();
    let mut build_id = String::new();
    let note = elf
        .section_by_name(".note.gnu.build-id")
        .context("the image has no build ID")?;
    for byte in note.data()?.get(NOTE_HEAD..).unwrap_or_default() {
        write!(build_id, "{byte:02x}")?;
    }
    let first = lines.next().unwrap_or_default();
    ensure!(
        first == build_id,
        "the table is of image {first:?}, the image is {build_id}"
    );
    let mut listed: BTreeMap<(u64, u64), Vec<&str>> = BTreeMap::new();
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let mut number = || -> Result<u64> {
            let word = words.next().unwrap_or_default();
            ensure!(word.len() == 8, "{line:?}");
            Ok(u64::from_str_radix(word, 16)?)
        };
        let key = (number()?, number()?);
        let name = words.next().with_context(|| format!("{line:?}"))?;
        listed.entry(key).or_default().push(name);
    }
    let mut count = 0;
    for symbol in elf.symbols().filter(|symbol| symbol.size() != 0) {
        let section = symbol.section_index();
        let text = section
            .and_then(|index| elf.section_by_index(index).ok())
            .is_some_and(|section| section.kind() == SectionKind::Text);
        if !text {
            continue;
        }
        let name = plain(symbol.name()?);
        let found = listed
            .get(&(symbol.address(), symbol.size()))
            .is_some_and(|names| names.iter().any(|listed| squeeze(listed) == squeeze(&name)));
        ensure!(found, "the table lacks {name} at {:#x}", symbol.address());
        count += 1;
    }
    let total: usize = listed.values().map(Vec::len).sum();
    ensure!(
        count == total && count != 0,
        "the table has {total} functions, the image {count}"
    );
    Ok(())
}

/// A name as the source has it.
fn plain(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
}

/// Demanglers differ in blanks, and in whether they write `::` before generic arguments.
fn squeeze(name: &str) -> String {
    name.replace(' ', "").replace("::<", "<")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_another_image_is_refused() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(check("00\n", &program).is_err());
        assert!(check("", b"no ELF").is_err());
    }

    #[test]
    fn names_are_compared_as_the_source_has_them() {
        assert_eq!(plain("_RNvCs1234_7mycrate3foo"), "mycrate::foo");
        assert_eq!(plain("eltwo_call"), "eltwo_call");
        assert_eq!(squeeze("a::<b, c>"), squeeze("a<b,c>"));
    }
}
