// SPDX-License-Identifier: GPL-2.0-only

//! From an instruction of the image back to its line in `asm/`.
//!
//! Assembly that Rust brings in by `global_asm!` has no line table, so instructions are counted from the label of their
//! function on, with macros expanded as the assembler does. A line counts only if its mnemonic is that of the instruction.

use std::collections::HashMap;

use crate::{
    elf::Image,
    insn::{
        self,
        Insn, //
    },
};

/// The sources, by name.
const SOURCES: [(&str, &str); 6] = [
    ("asm/frame.S", include_str!("../../../asm/frame.S")),
    ("asm/idmap.S", include_str!("../../../asm/idmap.S")),
    ("asm/vectors.S", include_str!("../../../asm/vectors.S")),
    ("asm/guest.S", include_str!("../../../asm/guest.S")),
    (
        "asm/guest_vectors.S",
        include_str!("../../../asm/guest_vectors.S"),
    ),
    (
        "asm/guest_extra.S",
        include_str!("../../../asm/guest_extra.S"),
    ),
];

/// Words of a comment that argues for an instruction which nobody misses.
pub(crate) const ARGUMENT: &str = "no mutant dies here";

/// Whether the function called `name` is in one of the sources.
pub fn knows(name: &str) -> bool {
    let label = format!("{name}:");
    let is_there = |source: &str| source.lines().any(|line| line == label);
    SOURCES.iter().any(|(_, source)| is_there(source))
}

/// `file:line` of the instruction at `offset`.
pub fn line_of(image: &Image, offset: u64) -> Option<String> {
    let (place, line) = find(image, offset)?;
    Some(format!("{}:{line}", SOURCES[place].0))
}

/// The comment above the instruction at `offset`, if it argues for it.
pub fn argument(image: &Image, offset: u64) -> Option<String> {
    let (place, line) = find(image, offset)?;
    let above: Vec<&str> = SOURCES[place]
        .1
        .lines()
        .take(line.checked_sub(1)?)
        .collect();
    let comment = above
        .iter()
        .rev()
        .map_while(|line| line.trim().strip_prefix("//"));
    let mut words: Vec<&str> = comment.map(str::trim).collect();
    words.reverse();
    let text = words.join(" ");
    text.contains(ARGUMENT).then_some(text)
}

/// Number of the source, and line.
type Line = (usize, usize);

fn find(image: &Image, offset: u64) -> Option<Line> {
    let (function, distance) = image.locate(offset)?;
    let text = insn::disassemble(image.word(offset)?);
    let mnemonic = text.split_whitespace().next()?;
    (0..SOURCES.len()).find_map(|place| {
        let all = statements(&SOURCES.map(|(_, text)| text), place, &function.name);
        let (line, statement) = all.get(distance as usize / 4)?;
        let word = statement.split_whitespace().next();
        // Hints have names for a disassembler that an assembler knows only with the right extension.
        let is_hint = matches!(
            image.word(offset).map(insn::decode),
            Some(Ok(Insn::Hint(_)))
        );
        let same = word == Some(mnemonic) || word == Some("hint") && is_hint;
        same.then_some(*line)
    })
}

/// A macro: its parameters, and the lines of its body.
struct Macro<'a> {
    parameters: Vec<&'a str>,
    body: Vec<(Line, &'a str)>,
}

/// The macros of all sources.
fn macros<'a>(sources: &[&'a str]) -> HashMap<&'a str, Macro<'a>> {
    let mut all = HashMap::new();
    let mut open: Option<(&str, Macro<'_>)> = None;
    for (place, source) in sources.iter().enumerate() {
        for (number, line) in (1..).zip(source.lines()) {
            let text = line.trim();
            if let Some(head) = text.strip_prefix(".macro") {
                let mut words = words(head);
                let name = words.next().unwrap_or_default();
                let parameters = words.collect();
                let body = Vec::new();
                open = Some((name, Macro { parameters, body }));
            } else if text == ".endm" {
                all.extend(open.take());
            } else if let Some((_, this)) = &mut open {
                this.body.push(((place, number), line));
            }
        }
    }
    all
}

/// What blanks and commas separate.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let all = text.split([',', ' ', '\t']);
    all.filter(|word| !word.is_empty())
}

/// The instructions behind the label `name` of source number `place` with their lines, up to the end of the function.
fn statements(sources: &[&str], place: usize, name: &str) -> Vec<(Line, String)> {
    let label = format!("{name}:");
    let end = format!(".size\t{name},");
    let lines = (1..)
        .zip(sources[place].lines())
        .skip_while(|(_, line)| *line != label)
        .skip(1)
        .take_while(|(_, line)| !line.trim().starts_with(&end));
    let known = macros(sources);
    let mut all = Vec::new();
    let mut is_body = false;
    for (number, line) in lines {
        is_body |= line.trim().starts_with(".macro");
        if !is_body {
            expand(&known, (place, number), line, &mut all);
        }
        is_body &= line.trim() != ".endm";
    }
    all
}

fn expand(known: &HashMap<&str, Macro<'_>>, at: Line, line: &str, all: &mut Vec<(Line, String)>) {
    let line = without_label(line.split("//").next().unwrap_or("").trim());
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let aligned = line.strip_prefix(".balign").map(|text| text.trim().parse());
    if let Some(Ok::<usize, _>(bytes)) = aligned {
        // Functions with such a line are aligned to at least as much themselves.
        let padded = all.len().next_multiple_of(bytes / 4);
        all.resize(padded, (at, String::new()));
    } else if let Some(this) = known.get(word) {
        let values: Vec<_> = this.parameters.iter().zip(words(rest)).collect();
        for (at, line) in &this.body {
            let line = values
                .iter()
                .fold((*line).to_owned(), |line, (name, value)| {
                    line.replace(&format!("\\{name}"), value)
                });
            expand(known, *at, &line, all);
        }
    } else if !line.is_empty() && !line.starts_with('.') {
        all.push((at, line.to_owned()));
    }
}

/// `line` behind a local label, if it has one. Labels of the file's own, in the middle of a function, stand alone.
fn without_label(line: &str) -> &str {
    match line.split_once(':') {
        Some((label, rest))
            if label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
        {
            rest.trim()
        }
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

    const EXPANDED: &str = "\
\t.macro\ttwice what, reg
\t\\what\t\\reg
\t\\what\tx1
\t.endm
\t.macro\tread reg
\tmrs\tx0, \\reg
\t.endm
start:
\ttwice\tread, x7
\t.balign\t16
inside:
\tisb
\t.size\tstart, . - start
";

    #[test]
    fn statements_of_function_have_their_lines() {
        let found = told(SOURCE);
        assert_eq!(found, "4 mov\tx0, xzr; 6 dsb\tnsh; 8 isb");
    }

    fn told(source: &str) -> String {
        let all = statements(&[source], 0, "start");
        let told: Vec<_> = all
            .iter()
            .map(|((_, line), text)| format!("{line} {text}"))
            .collect();
        told.join("; ")
    }

    #[test]
    fn statements_of_macros_have_their_own_lines() {
        assert_eq!(
            told(EXPANDED),
            "6 mrs\tx0, x7; 6 mrs\tx0, x1; 10 ; 10 ; 12 isb"
        );
    }

    #[test]
    fn knows_labels_of_sources_only() {
        assert!(knows("eltwo_init"));
        assert!(!knows("eltwo_nothing"));
    }

    #[test]
    fn statements_of_unknown_function_are_none() {
        assert!(statements(&[SOURCE], 0, "end").is_empty());
    }
}
