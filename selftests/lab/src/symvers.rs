// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's list of exported symbols, `Module.symvers`, and what a module needs of it.

use std::{
    collections::HashSet,
    fs,
    path::Path, //
};

use anyhow::{
    Context as _,
    Result, //
};
use object::{
    Object as _,
    ObjectSymbol as _, //
};

/// The symbols that a kernel exports to modules.
#[derive(Debug)]
pub struct Symvers(HashSet<String>);

impl Symvers {
    /// Reads the file `Module.symvers` of a kernel tree.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    /// Each line holds a checksum, the symbol, its owner, the kind of export and a namespace, between tabs.
    fn parse(text: &str) -> Self {
        let symbols = text.lines().filter_map(|line| line.split('\t').nth(1));
        Self(symbols.map(str::to_owned).collect())
    }

    /// Whether the kernel exports `symbol`.
    pub fn exports(&self, symbol: &str) -> bool {
        self.0.contains(symbol)
    }

    /// Counts the symbols that `module` needs, and names those that the kernel does not export.
    pub fn check_module(&self, module: &[u8]) -> Result<(usize, Vec<String>)> {
        let file = object::File::parse(module).context("the module is no ELF file")?;
        let needed: Vec<&str> = file
            .symbols()
            .filter(|symbol| symbol.is_undefined())
            .filter_map(|symbol| symbol.name().ok().filter(|name| !name.is_empty()))
            .collect();
        let missing = needed.iter().filter(|symbol| !self.exports(symbol));
        Ok((
            needed.len(),
            missing.map(|symbol| (*symbol).to_owned()).collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_takes_the_second_column() {
        let symvers = Symvers::parse(
            "0x00000000\t_printk\tvmlinux\tEXPORT_SYMBOL\t\n0x1\t_RNvC4core\tvmlinux\tEXPORT_SYMBOL_GPL\t\n",
        );
        assert!(symvers.exports("_printk") && symvers.exports("_RNvC4core"));
        assert!(!symvers.exports("vmlinux"));
    }

    #[test]
    fn check_module_rejects_what_is_no_module() {
        assert!(Symvers::parse("").check_module(b"no ELF").is_err());
    }
}
