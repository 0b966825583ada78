// SPDX-License-Identifier: GPL-2.0-only

//! Finds properties of a flattened device tree, gives them other values, and adds properties and nodes.
//!
//! Source: Devicetree Specification v0.4, chapter 5: all numbers are big-endian; the structure block is a sequence of
//! 32-bit tokens, with names and values padded to four bytes.

use std::ops::Range;

use anyhow::{
    ensure,
    Context as _,
    Result, //
};

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;

/// Where in the header the sizes of the tree and its blocks are, and where these begin.
const TOTAL: usize = 4;
const STRUCTURE: usize = 8;
const STRINGS: usize = 12;
const RESERVED: usize = 16;
const STRINGS_SIZE: usize = 32;
const STRUCTURE_SIZE: usize = 36;

/// A device tree.
#[derive(Debug)]
pub struct Fdt(Vec<u8>);

impl Fdt {
    /// Takes a tree as it is in a file.
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        let tree = Self(bytes);
        ensure!(tree.word(0)? == MAGIC, "this is no device tree");
        Ok(tree)
    }

    /// The tree as it goes into a file.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Gives `property` of the node at `path` (`/chosen`) another value. What lies behind it moves if the length changes.
    pub fn replace(&mut self, path: &str, property: &str, value: &[u8]) -> Result<()> {
        let (start, length) = self
            .find(path, property)?
            .with_context(|| format!("the device tree has no {property} in {path}"))?;
        self.splice(start..start + length.next_multiple_of(4), &padded(value))?;
        self.set_word(start - 8, value.len())
    }

    /// Gives the node at `path` a property that it lacks.
    pub fn add_property(&mut self, path: &str, property: &str, value: &[u8]) -> Result<()> {
        let name = self.add_name(property)?;
        let inside = self.find_node(path)?;
        let head = [PROP, u32::try_from(value.len())?, name];
        let mut bytes: Vec<u8> = head.into_iter().flat_map(u32::to_be_bytes).collect();
        bytes.extend(padded(value));
        self.splice(inside.start..inside.start, &bytes)
    }

    /// Gives the node at `path` another one without properties, behind those that it has.
    pub fn add_node(&mut self, path: &str, name: &str) -> Result<()> {
        let inside = self.find_node(path)?;
        let mut bytes = BEGIN_NODE.to_be_bytes().to_vec();
        bytes.extend(padded(format!("{name}\0").as_bytes()));
        bytes.extend(END_NODE.to_be_bytes());
        self.splice(inside.end..inside.end, &bytes)
    }

    /// Cuts off what lies behind the blocks: QEMU leaves a mebibyte there, and doubles what it is given, which a kernel does
    /// not take.
    pub fn trim(&mut self) -> Result<()> {
        let end = |start: usize, size: usize| Ok((self.word(start)? + self.word(size)?) as usize);
        let ends: [Result<usize>; 2] = [end(STRINGS, STRINGS_SIZE), end(STRUCTURE, STRUCTURE_SIZE)];
        let [strings, structure] = ends;
        let end = strings?.max(structure?);
        ensure!(end <= self.0.len(), "the device tree breaks off");
        self.0.truncate(end);
        self.set_word(TOTAL, end)
    }

    /// Puts `bytes` in the place of `range` in the structure block.
    fn splice(&mut self, range: Range<usize>, bytes: &[u8]) -> Result<()> {
        ensure!(range.end <= self.0.len(), "the device tree breaks off");
        let (start, before, after) = (range.start, range.len(), bytes.len());
        self.0.splice(range, bytes.iter().copied());
        self.grow(STRUCTURE_SIZE, start, before, after)
    }

    /// Puts the name of a property into the block of strings, and returns its offset there.
    fn add_name(&mut self, name: &str) -> Result<u32> {
        let offset = self.word(STRINGS_SIZE)?;
        let place = self.word(STRINGS)? as usize + offset as usize;
        ensure!(place <= self.0.len(), "the device tree breaks off");
        let bytes = format!("{name}\0").into_bytes();
        let length = bytes.len();
        self.0.splice(place..place, bytes);
        self.grow(STRINGS_SIZE, place, 0, length)?;
        Ok(offset)
    }

    /// `before` bytes at `place`, in the block whose size stands at `size`, have become `after` bytes.
    fn grow(&mut self, size: usize, place: usize, before: usize, after: usize) -> Result<()> {
        for offset in [TOTAL, size] {
            let bytes = self.word(offset)? as usize;
            self.set_word(offset, bytes + after - before)?;
        }
        for offset in [STRUCTURE, STRINGS, RESERVED] {
            let start = self.word(offset)? as usize;
            if start > place {
                self.set_word(offset, start + after - before)?;
            }
        }
        Ok(())
    }

    fn set_word(&mut self, offset: usize, value: usize) -> Result<()> {
        let bytes = u32::try_from(value)?.to_be_bytes();
        self.0
            .get_mut(offset..offset + bytes.len())
            .context("the device tree breaks off")?
            .copy_from_slice(&bytes);
        Ok(())
    }

    /// The 32-bit number at `offset`.
    fn word(&self, offset: usize) -> Result<u32> {
        let bytes = self.0.get(offset..).and_then(|rest| rest.first_chunk());
        Ok(u32::from_be_bytes(
            *bytes.context("the device tree breaks off")?,
        ))
    }

    /// The string at `offset`.
    fn text(&self, offset: usize) -> Result<&str> {
        let rest = self.0.get(offset..).unwrap_or_default();
        let end = rest
            .iter()
            .position(|byte| *byte == 0)
            .context("a name in the device tree has no end")?;
        Ok(std::str::from_utf8(&rest[..end])?)
    }

    /// What stands at `at` in the structure block, and where the next token is.
    fn token(&self, mut at: usize) -> Result<(Token<'_>, usize)> {
        let token = self.word(at)?;
        at += 4;
        Ok(match token {
            BEGIN_NODE => {
                let name = self.text(at)?;
                (
                    Token::Begin(name),
                    at + (name.len() + 1).next_multiple_of(4),
                )
            }
            END_NODE => (Token::End, at),
            PROP => {
                let length = self.word(at)? as usize;
                let strings = self.word(STRINGS)? as usize;
                let name = self.text(strings + self.word(at + 4)? as usize)?;
                at += 8;
                let next = at + length.next_multiple_of(4);
                (Token::Property(name, at, length), next)
            }
            NOP => (Token::Nothing, at),
            _ => (Token::Over, at),
        })
    }

    /// Offset and length of the value of a property.
    fn find(&self, wanted: &str, property: &str) -> Result<Option<(usize, usize)>> {
        let mut at = self.word(STRUCTURE)? as usize;
        // The root's name is empty, so that the path of its child `chosen` is `/chosen`.
        let mut path: Vec<&str> = Vec::new();
        loop {
            let (token, next) = self.token(at)?;
            match token {
                Token::Begin(name) => path.push(name),
                Token::End => {
                    path.pop();
                }
                Token::Property(name, value, length)
                    if name == property && path.join("/") == wanted =>
                {
                    return Ok(Some((value, length)));
                }
                Token::Property(..) | Token::Nothing => (),
                Token::Over => return Ok(None),
            }
            at = next;
        }
    }

    /// Where the contents of a node are, up to the token that ends it.
    fn find_node(&self, wanted: &str) -> Result<Range<usize>> {
        let mut at = self.word(STRUCTURE)? as usize;
        let mut path: Vec<&str> = Vec::new();
        let mut start = None;
        loop {
            let (token, next) = self.token(at)?;
            match token {
                Token::Begin(name) => {
                    path.push(name);
                    if path.join("/") == wanted {
                        start = Some(next);
                    }
                }
                Token::End => {
                    if let (Some(start), true) = (start, path.join("/") == wanted) {
                        return Ok(start..at);
                    }
                    path.pop();
                }
                Token::Property(..) | Token::Nothing => (),
                Token::Over => anyhow::bail!("the device tree has no node {wanted}"),
            }
            at = next;
        }
    }
}

/// A token of the structure block.
enum Token<'a> {
    /// A node with this name begins.
    Begin(&'a str),
    /// The last node that began ends.
    End,
    /// A property: its name, offset and length of its value.
    Property(&'a str, usize, usize),
    /// Nothing.
    Nothing,
    /// The end of the tree.
    Over,
}

/// A value as it stands in the structure block.
fn padded(value: &[u8]) -> Vec<u8> {
    let mut bytes = value.to_vec();
    bytes.resize(value.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with the node `/chosen` and its property `reg` of eight bytes.
    fn tree() -> Vec<u8> {
        const END: u32 = 9;
        let strings = b"reg\0";
        let [name, rest] = [b"chos", b"en\0\0"].map(|part| u32::from_be_bytes(*part));
        let opening = [BEGIN_NODE, 0, NOP, BEGIN_NODE, name, rest];
        let closing = [PROP, 8, 0, 0, 7, END_NODE, END_NODE, END];
        let structure: Vec<u8> = opening
            .into_iter()
            .chain(closing)
            .flat_map(u32::to_be_bytes)
            .collect();
        let header = 40;
        let total = header + structure.len() + strings.len();
        let names = header + structure.len();
        let words = [
            MAGIC as usize,
            total,
            header,
            names,
            0,
            17,
            16,
            0,
            strings.len(),
            structure.len(),
        ];
        let mut bytes: Vec<u8> = words
            .into_iter()
            .flat_map(|word| (word as u32).to_be_bytes())
            .collect();
        bytes.extend(structure);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn replace_changes_the_value_and_nothing_else() {
        let before = tree();
        let mut tree = Fdt::new(before.clone()).unwrap();
        let value = 0x80_8000_0000u64.to_be_bytes();
        tree.replace("/chosen", "reg", &value).unwrap();
        let (start, length) = tree.find("/chosen", "reg").unwrap().unwrap();
        assert_eq!(tree.bytes()[start..start + length], value);
        let mut expected = before;
        expected[start..start + length].copy_from_slice(&value);
        assert_eq!(tree.bytes(), expected);
    }

    #[test]
    fn replace_moves_what_lies_behind() {
        let mut tree = Fdt::new(tree()).unwrap();
        for length in [32, 5, 0, 8] {
            let value = vec![0xa5; length];
            tree.replace("/chosen", "reg", &value).unwrap();
            let (start, found) = tree.find("/chosen", "reg").unwrap().unwrap();
            assert_eq!(tree.bytes()[start..start + found], value);
            assert_eq!(tree.find("/chosen", "range").unwrap(), None);
            assert_eq!(tree.word(4).unwrap() as usize, tree.bytes().len());
        }
        assert_eq!(
            tree.bytes().len(),
            self::tree().len(),
            "as long as it was, with a value as long as it was"
        );
    }

    #[test]
    fn added_nodes_and_properties_are_found() {
        let mut tree = Fdt::new(tree()).unwrap();
        tree.add_node("/chosen", "part").unwrap();
        tree.add_node("", "other").unwrap();
        tree.add_property("/chosen/part", "bits", &[1, 2, 3, 4, 5])
            .unwrap();
        tree.add_property("/other", "bits", &[6]).unwrap();
        for (path, wanted) in [("/chosen/part", &[1, 2, 3, 4, 5][..]), ("/other", &[6])] {
            let (start, length) = tree.find(path, "bits").unwrap().unwrap();
            assert_eq!(&tree.bytes()[start..start + length], wanted);
        }
        // What was there is as it was.
        let (start, length) = tree.find("/chosen", "reg").unwrap().unwrap();
        assert_eq!(
            tree.bytes()[start..start + length],
            [0, 0, 0, 0, 0, 0, 0, 7]
        );
        assert_eq!(tree.word(TOTAL).unwrap() as usize, tree.bytes().len());
        let whole = tree.bytes().to_vec();
        let mut padded = whole.clone();
        padded.resize(4096, 0);
        let mut padded = Fdt::new(padded).unwrap();
        padded.trim().unwrap();
        assert_eq!(padded.bytes(), whole);
        assert!(tree.add_node("/nowhere", "part").is_err());
        assert!(tree.add_property("/nowhere", "bits", &[]).is_err());
    }

    #[test]
    fn replace_refuses_what_is_not_there() {
        let mut tree = Fdt::new(tree()).unwrap();
        for (path, property) in [("/chosen", "range"), ("/memory", "reg")] {
            assert!(tree.replace(path, property, &[0; 8]).is_err());
        }
        assert!(Fdt::new(vec![0; 64]).is_err());
        let whole = self::tree();
        let cut = whole[..whole.len() - 30].to_vec();
        assert!(Fdt::new(cut)
            .unwrap()
            .replace("/memory", "reg", &[0; 8])
            .is_err());
    }
}
