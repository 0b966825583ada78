// SPDX-License-Identifier: GPL-2.0-only

//! The cache: everything that the lab makes lives here, nothing in the checkout.
//!
//! An *artefact* is a directory whose name ends in a hash of all that it depends on. It counts only once its marker
//! file exists, which is written last: an interrupted run leaves nothing that a later one would trust. Artefacts are
//! made in place, not moved there, because a prepared kernel tree knows its own path. Whoever uses an artefact holds a
//! shared lock on its directory; stale versions are removed as soon as nobody uses them.

use std::{
    env,
    ffi::OsStr,
    fs::{
        self,
        File, //
    },
    path::{
        Path,
        PathBuf, //
    }, //
};

use anyhow::{
    Context as _,
    Result, //
};
use rustix::fs::FlockOperation;
use sha2::{
    Digest as _,
    Sha256, //
};

use crate::{
    cmd::Failure,
    ui::Ui, //
};

/// Written into an artefact when it is complete.
const MARKER: &str = ".complete";

/// Hexadecimal digits of a key that go into the name of an artefact.
const KEY_DIGITS: usize = 12;

/// A hash of what an artefact depends on.
#[derive(Clone, Debug, Default)]
pub struct Key(Sha256);

impl Key {
    /// An empty key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one input. Name and value are delimited, so that no two lists of inputs look the same.
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds a list of inputs, in its order.
    pub fn with_list<T: AsRef<[u8]>>(
        self,
        name: &str,
        values: impl IntoIterator<Item = T>,
    ) -> Self {
        let mut key = self;
        for value in values {
            key = key.with(name, value);
        }
        key
    }

    /// The digits that go into file names.
    pub fn digits(&self) -> String {
        let hash = self.0.clone().finalize();
        let bytes = hash.iter().take(KEY_DIGITS / 2);
        bytes.fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"))
    }
}

/// A complete artefact, which stays as long as this value lives.
#[derive(Debug)]
pub struct Artefact {
    path: PathBuf,
    _in_use: File,
}

impl Artefact {
    /// The directory of the artefact.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below the directory of the artefact.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }
}

/// The exclusive right to change the cache.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The cache directory.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens `$XDG_CACHE_HOME/eltwo`, and makes it if it does not exist.
    pub fn open() -> Result<Self> {
        let dir = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(
                env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?,
            )
            .join(".cache"),
        };
        Self::at(&dir.join("eltwo"))
    }

    /// Opens the cache in `dir`.
    fn at(dir: &Path) -> Result<Self> {
        for sub in ["log", "build", "run"] {
            fs::create_dir_all(dir.join(sub)).map_err(|error| {
                Failure::new(
                    format!("cannot make the cache directory {}: {error}", dir.display()),
                    "set XDG_CACHE_HOME to a directory that you can write to",
                )
            })?;
        }
        let dir = fs::canonicalize(dir)?;
        Ok(Self { dir })
    }

    /// The cache directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path below the cache directory.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join(path)
    }

    /// The log called `name`, emptied.
    pub fn fresh_log(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join("log").join(format!("{name}.log"));
        File::create(&path)?;
        Ok(path)
    }

    /// The directory for the VM called `name` of this run of the lab.
    pub fn vm_dir(&self, name: &str) -> PathBuf {
        self.dir
            .join("run")
            .join(format!("{}-{name}", std::process::id()))
    }

    /// Removes what the VMs of earlier runs of the lab left behind.
    pub fn prune_vm_dirs(&self) -> Result<()> {
        for entry in fs::read_dir(self.dir.join("run"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let process = name.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(process).exists() {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// Waits for the exclusive right to change the cache, and says so if it has to wait.
    pub fn lock(&self, ui: &Ui) -> Result<Lock> {
        let file = File::create(self.dir.join("lock"))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            ui.notice(format_args!(
                "another run of the lab is building in {}; waiting for it",
                self.dir.display()
            ));
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        }
        Ok(Lock { _file: file })
    }

    /// Returns the artefact `name` with `key`, and has `make` fill its directory if it is not complete yet.
    ///
    /// The lock shows that no other run makes the same artefact.
    pub fn artefact(
        &self,
        _lock: &Lock,
        name: &str,
        key: &Key,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Artefact> {
        let path = self.dir.join(format!("{name}-{}", key.digits()));
        if !path.join(MARKER).exists() {
            remove_tree(&path)?;
            fs::create_dir_all(&path)?;
            make(&path)?;
            File::create(path.join(MARKER))?;
        }
        let in_use = File::open(&path)?;
        rustix::fs::flock(&in_use, FlockOperation::LockShared)?;
        self.prune(name, &path)?;
        Ok(Artefact {
            path,
            _in_use: in_use,
        })
    }

    /// Removes other versions of the artefact `name` that nobody uses.
    fn prune(&self, name: &str, keep: &Path) -> Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path == keep
                || !path
                    .file_name()
                    .is_some_and(|file| is_version_of(file, name))
            {
                continue;
            }
            let dir = File::open(&path)?;
            if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

/// Whether `file` is the directory of some version of the artefact `name`.
fn is_version_of(file: &OsStr, name: &str) -> bool {
    file.to_str()
        .and_then(|file| file.strip_prefix(name)?.strip_prefix('-'))
        .is_some_and(|key| {
            key.len() == KEY_DIGITS && key.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

/// Removes a directory tree, if there is one.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> (PathBuf, Cache, Lock) {
        let dir = env::temp_dir().join(format!("eltwo-lab-{name}-{}", std::process::id()));
        let cache = Cache::at(&dir).unwrap();
        let lock = cache.lock(&Ui::new()).unwrap();
        (dir, cache, lock)
    }

    #[test]
    fn key_boundaries_matter() {
        let one = Key::new().with("packages", "ab").with("packages", "c");
        let two = Key::new().with("packages", "a").with("packages", "bc");
        assert_ne!(one.digits(), two.digits());
        assert_eq!(
            one.digits(),
            Key::new().with_list("packages", ["ab", "c"]).digits()
        );
        assert_eq!(one.digits().len(), KEY_DIGITS);
    }

    #[test]
    fn artefact_that_failed_is_made_again() {
        let (dir, cache, lock) = scratch("failed");
        let key = Key::new().with("version", "1");
        let half = cache.artefact(&lock, "thing", &key, |path| {
            fs::write(path.join("half"), "")?;
            anyhow::bail!("interrupted")
        });
        assert!(half.is_err());
        let whole = cache
            .artefact(&lock, "thing", &key, |path| {
                Ok(fs::write(path.join("whole"), "")?)
            })
            .unwrap();
        assert!(whole.join("whole").exists());
        assert!(!whole.join("half").exists());
        let again = cache.artefact(&lock, "thing", &key, |_| {
            anyhow::bail!("must not be made again")
        });
        assert!(again.is_ok());
        remove_tree(&dir).unwrap();
    }

    #[test]
    fn vm_dirs_of_dead_processes_are_pruned() {
        let (dir, cache, _lock) = scratch("prune");
        let dead = cache.join("run/4194305-base");
        for path in [&dead, &cache.vm_dir("base")] {
            fs::create_dir_all(path).unwrap();
        }
        cache.prune_vm_dirs().unwrap();
        assert!(!dead.exists() && cache.vm_dir("base").exists());
        remove_tree(&dir).unwrap();
    }

    #[test]
    fn artefact_stale_version_goes_when_unused() {
        let (dir, cache, lock) = scratch("stale");
        let make = |version: &str| {
            let key = Key::new().with("version", version);
            cache.artefact(&lock, "thing", &key, |_| Ok(())).unwrap()
        };
        let one = make("1");
        let other = cache
            .artefact(&lock, "thing-other", &Key::new(), |_| Ok(()))
            .unwrap();
        let two = make("2");
        assert!(one.path().exists(), "in use");
        let stale = one.path().to_owned();
        drop(one);
        drop(make("2"));
        assert!(!stale.exists());
        assert!(two.path().exists());
        assert!(
            other.path().exists(),
            "another artefact whose name starts alike"
        );
        remove_tree(&dir).unwrap();
    }
}
