// SPDX-License-Identifier: GPL-2.0-only

//! Finds properties of a flattened device tree and gives them other values.
//!
//! Source: Devicetree Specification v0.4, chapter 5: all numbers are big-endian; the structure block is a sequence of
//! 32-bit tokens, with names and values padded to four bytes.

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
        let end = start + length.next_multiple_of(4);
        ensure!(end <= self.0.len(), "the device tree breaks off");
        let mut padded = value.to_vec();
        padded.resize(value.len().next_multiple_of(4), 0);
        let (before, after) = (end - start, padded.len());
        self.0.splice(start..end, padded);
        self.set_word(start - 8, value.len())?;
        let [total, strings, structure_size] = [4, 12, 36];
        for offset in [total, structure_size] {
            let size = self.word(offset)? as usize;
            self.set_word(offset, size + after - before)?;
        }
        let reserved = 16;
        for offset in [strings, reserved] {
            let place = self.word(offset)? as usize;
            if place > start {
                self.set_word(offset, place + after - before)?;
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

    /// Offset and length of the value of a property.
    fn find(&self, wanted: &str, property: &str) -> Result<Option<(usize, usize)>> {
        let strings = self.word(12)? as usize;
        let mut at = self.word(8)? as usize;
        // The root's name is empty, so that the path of its child `chosen` is `/chosen`.
        let mut path: Vec<&str> = Vec::new();
        loop {
            let token = self.word(at)?;
            at += 4;
            match token {
                BEGIN_NODE => {
                    let name = self.text(at)?;
                    path.push(name);
                    at += (name.len() + 1).next_multiple_of(4);
                }
                END_NODE => {
                    path.pop();
                }
                PROP => {
                    let length = self.word(at)? as usize;
                    let name = self.text(strings + self.word(at + 4)? as usize)?;
                    at += 8;
                    if name == property && path.join("/") == wanted {
                        return Ok(Some((at, length)));
                    }
                    at += length.next_multiple_of(4);
                }
                NOP => (),
                _ => return Ok(None),
            }
        }
    }
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
