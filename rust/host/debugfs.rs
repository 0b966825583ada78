// SPDX-License-Identifier: GPL-2.0-only

//! Host: `/sys/kernel/debug/eltwo/`.
//!
//! | file | shows |
//! |---|---|
//! | `cpus` | state of each possible CPU, its main EL2 registers, its counters |
//! | `pool` | the pool, page by use |
//! | `tables` | both PGDs, in the manner of ptdump, with the names of the regions |
//! | `regs` | the EL2 register image of each CPU: before init, and now |
//! | `hypercall` | write: a call, made on the writer's CPU; read: x0..x4 of the last one |
//! | `provoke` | only with the parameter `provoke=1`; write: the name of an exception to take at EL2 on the writer's CPU, or that and where the next switch to a guest is to take it; read: the names |
//! | `vms` | what VMs take, and a line for each |
//! | `stage2` | the stage-2 tables of each VM |
//! | `fail_nth` | write: which of the steps from now on is to fail; read: that, and how many were taken; only if the module was loaded with `fail_nth` |
//! | `log` | the exceptions that were taken at EL2 |

use core::{
    ptr::{
        null_mut,
        NonNull, //
    },
    sync::atomic::Ordering::Relaxed,
};

use kernel::{
    error::from_result,
    ffi::{
        c_char,
        c_int,
        c_void, //
    },
    fmt, new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        Arc,
        Mutex, //
    },
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader, //
    },
};

use super::{
    cpu::Cpu,
    hooks,
    inject::{
        self,
        Step, //
    },
    kvm::{
        show,
        system::System, //
    },
    provoke,
    refused::Refused,
    service::Service, //
};
use crate::{
    arch::el1::HvcRegs,
    bindings,
    common::{
        abi::{
            Call,
            Provoke,
            ProvokeAt,
            HVC_STUB_CALLS, //
        },
        lifecycle::State,
        pool::Use,
        regs::{
            index,
            IMAGE, //
        },
    },
    host::THIS_MODULE,
};

/// Longest text that a file takes, in bytes.
const LONGEST_WRITE: usize = 256;

/// What the files show.
#[pin_data]
struct Files {
    service: Arc<Service>,
    system: Arc<System>,
    #[pin]
    last_call: Mutex<HvcRegs>,
}

/// The directory. It is removed, after the last reader, when this is dropped.
///
/// The files name this module as their owner, which `kernel::debugfs` does not: without it a file that is open while the
/// module is unloaded would be closed through operations that are gone.
pub(crate) struct Directory {
    dentry: *mut bindings::dentry,
    /// Dropped after the files that show it.
    _files: Pin<KBox<Files>>,
}

// SAFETY: The dentry belongs to this object alone, and debugfs does its own locking.
unsafe impl Send for Directory {}
// SAFETY: As above.
unsafe impl Sync for Directory {}

impl Directory {
    /// Creates it. Without debugfs in the kernel there is none, which is no error.
    pub(crate) fn new(system: Arc<System>) -> Result<Self, Refused> {
        let files = pin_init!(Files {
            service: system.service.clone(),
            system,
            last_call <- new_mutex!([0; 5]),
        });
        let files = inject::at(Step::Debugfs, |flags| KBox::pin_init(files, flags))?;
        // SAFETY: The name is a string; no parent is the root of debugfs.
        let dentry = unsafe { bindings::debugfs_create_dir(c"eltwo".as_char_ptr(), null_mut()) };
        let data = NonNull::from(&*files).as_ptr().cast::<c_void>();
        let files_always = [
            (c"cpus", 0o400, &CPUS),
            (c"pool", 0o400, &POOL),
            (c"tables", 0o400, &TABLES),
            (c"regs", 0o400, &REGS),
            (c"log", 0o400, &LOG),
            (c"vms", 0o400, &VMS),
            (c"stage2", 0o400, &STAGE2),
            (c"hypercall", 0o600, &HYPERCALL),
        ];
        let for_tests = [
            (inject::is_on(), (c"fail_nth", 0o600, &FAIL_NTH)),
            (provoke::is_allowed(), (c"provoke", 0o600, &PROVOKE)),
        ]
        .into_iter()
        .filter_map(|(wanted, file)| wanted.then_some(file));
        for (name, mode, operations) in Iterator::chain(files_always.into_iter(), for_tests) {
            // SAFETY: The operations are static and fit the data, which outlives the directory. An error pointer as the
            // parent is accepted, and nothing is created then.
            unsafe {
                bindings::debugfs_create_file_full(
                    name.as_char_ptr(),
                    mode,
                    dentry,
                    data,
                    null_mut(),
                    &operations.0,
                )
            };
        }
        Ok(Self {
            dentry,
            _files: files,
        })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: `new` has created it, or holds an error pointer, which is accepted. Waits for whoever is in one of the files.
        unsafe { bindings::debugfs_remove(self.dentry) };
    }
}

/// `struct file_operations` of one file.
struct Operations(bindings::file_operations);

// SAFETY: The table is constant.
unsafe impl Sync for Operations {}

/// The text of a file, produced when it is formatted.
struct Text<'a> {
    files: &'a Files,
    show: fn(&Files, &mut fmt::Formatter<'_>) -> fmt::Result,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.show)(self.files, f)
    }
}

/// Defines the operations of a file: `$show` writes its text, `$store` takes what is written to it.
macro_rules! operations {
    ($name:ident, $show:expr, $store:expr) => {
        static $name: Operations = {
            /// # Safety
            ///
            /// Called by the kernel to open a file of [`Directory`].
            unsafe extern "C" fn open(
                inode: *mut bindings::inode,
                file: *mut bindings::file,
            ) -> c_int {
                // SAFETY: The inode is valid, and its data are the `Files` of the directory.
                unsafe { bindings::single_open(file, Some(show), (*inode).i_private) }
            }

            /// # Safety
            ///
            /// Called by `seq_read` for a file that `open` has opened.
            unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
                // SAFETY: `open` has stored the `Files` there; they outlive the directory, whose removal waits for us.
                let (seq, files) = unsafe {
                    let files = &*(*seq).private.cast::<Files>();
                    (SeqFile::from_raw(seq), files)
                };
                let show = $show;
                seq_print!(seq, "{}", Text { files, show });
                0
            }

            /// # Safety
            ///
            /// Called by the kernel for a file that `open` has opened, with a buffer of user space.
            unsafe extern "C" fn write(
                file: *mut bindings::file,
                buffer: *const c_char,
                count: usize,
                _: *mut bindings::loff_t,
            ) -> isize {
                // SAFETY: `single_open` has made the private data a `seq_file`, and `open` its private data the `Files`.
                let files = unsafe {
                    let seq = (*file).private_data.cast::<bindings::seq_file>();
                    &*(*seq).private.cast::<Files>()
                };
                let pointer = UserPtr::from_ptr(buffer.cast_mut().cast());
                let mut reader = UserSlice::new(pointer, count).reader();
                let store: fn(&Files, &mut UserSliceReader) -> Result = $store;
                from_result(|| store(files, &mut reader).map(|()| count as isize))
            }

            Operations(bindings::file_operations {
                owner: THIS_MODULE,
                open: Some(open),
                read: Some(bindings::seq_read),
                write: Some(write),
                llseek: Some(bindings::seq_lseek),
                release: Some(bindings::single_release),
                ..pin_init::zeroed()
            })
        };
    };
}

operations!(CPUS, show_cpus, read_only);
operations!(POOL, show_pool, read_only);
operations!(TABLES, show_tables, read_only);
operations!(REGS, show_regs, read_only);
operations!(LOG, show_log, read_only);
operations!(VMS, show_vms, read_only);
operations!(STAGE2, show_stage2, read_only);
operations!(HYPERCALL, show_hypercall, do_hypercall);
operations!(PROVOKE, show_provoke, do_provoke);
operations!(FAIL_NTH, show_fail_nth, set_fail_nth);

fn read_only(_: &Files, _: &mut UserSliceReader) -> Result {
    Err(EPERM)
}

fn show_cpus(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "cpu state   vbar_el2           ttbr0_el2          sctlr_el2          inits resets hypercalls faults"
    )?;
    for (number, cpu) in files.service.cpus.iter().enumerate() {
        let online = hooks::is_online(number as u32);
        // The reading comes first: it notices if the CPU is ours no longer.
        let live = LiveImage::read(&files.service, number as u32);
        let state = if online { cpu.state().name() } else { "absent" };
        write!(f, "{number:<3} {state:<7}")?;
        for place in [index::VBAR, index::TTBR0, index::SCTLR] {
            match live.get(place as usize) {
                Some(value) => write!(f, " {value:#018x}")?,
                None => write!(f, " {:<18}", "-")?,
            }
        }
        let (hypercalls, faults) = cpu.counters();
        writeln!(
            f,
            " {:<5} {:<6} {hypercalls:<10} {faults}",
            cpu.inits(),
            cpu.resets()
        )?;
    }
    Ok(())
}

/// The register image of a CPU that is ours, read on that CPU.
struct LiveImage {
    values: [Option<u64>; IMAGE.len()],
}

impl LiveImage {
    fn read(service: &Service, number: u32) -> Self {
        let values = hooks::on_cpu(number, |irqs| {
            let mut values = [None; IMAGE.len()];
            let cpu = service
                .this_cpu(irqs)
                .filter(|cpu| cpu.state() == State::Hyp);
            for (place, _) in cpu.into_iter().flat_map(Cpu::image_before) {
                let value = cpu.and_then(|cpu| cpu.read_live(service, place, irqs).ok());
                if let Some(slot) = values.get_mut(place) {
                    *slot = value;
                }
            }
            values
        });
        service.settle();
        Self {
            values: values.unwrap_or([None; IMAGE.len()]),
        }
    }

    fn get(&self, place: usize) -> Option<u64> {
        self.values.get(place).copied().flatten()
    }
}

fn show_regs(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (number, cpu) in files.service.cpus.iter().enumerate() {
        let live = LiveImage::read(&files.service, number as u32);
        for (place, before) in cpu.image_before() {
            let name = IMAGE.get(place).map_or("?", |register| register.name);
            match live.get(place) {
                Some(now) => writeln!(f, "{number} {name} {before:#x} {now:#x}")?,
                None => writeln!(f, "{number} {name} {before:#x} -")?,
            }
        }
    }
    Ok(())
}

fn show_pool(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let service = &files.service;
    let pool = &service.pool.shared().pool;
    writeln!(f, "granule_bytes: {}", service.machine.granule.size())?;
    writeln!(f, "chunks: {}", service.pool.chunk_count())?;
    writeln!(f, "pages_total: {}", pool.pages())?;
    for (name, kind) in [
        ("free", Use::Free),
        ("image", Use::Image),
        ("tables", Use::Table),
        ("contexts", Use::Context),
        ("stacks", Use::Stack),
        ("meta", Use::Meta),
    ] {
        writeln!(f, "pages_{name}: {}", pool.pages_in(kind))?;
    }
    writeln!(f, "image_bytes: {}", service.image.bytes())?;
    let shared = service.pool.shared();
    let tables = &service.tables;
    writeln!(f, "shares: {}", shared.shares.load(Relaxed))?;
    writeln!(f, "tlbis: {}", shared.tlbis.load(Relaxed))?;
    writeln!(f, "va_bits: {}", tables.layout().va_bits())?;
    writeln!(f, "levels: {}", tables.levels())?;
    writeln!(f, "pa_bits: {}", service.machine.pa_bits)?;
    writeln!(f, "lpa2: {}", u32::from(service.machine.lpa2))?;
    writeln!(f, "map_linear: {}", shared.facts.map as u32)
}

fn show_tables(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    files.service.tables.show(&files.service.pool, f)
}

fn show_vms(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    show::vms(&files.system, f)
}

fn show_stage2(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    show::stage2(&files.system, f)
}

fn show_log(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    files.service.settle();
    write!(f, "{}", *files.service.log.lock())
}

fn show_hypercall(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [x0, x1, x2, x3, x4] = *files.last_call.lock();
    writeln!(f, "{x0:#x} {x1:#x} {x2:#x} {x3:#x} {x4:#x}")
}

fn do_hypercall(files: &Files, reader: &mut UserSliceReader) -> Result {
    let mut room = [0; LONGEST_WRITE];
    let bytes = read_bytes(reader, &mut room)?;
    let text = core::str::from_utf8(bytes).map_err(|_| EINVAL)?;
    let mut words = text.split_ascii_whitespace();
    let name = words.next().ok_or(EINVAL)?;
    let number = Call::ALL
        .iter()
        .find(|(_, known)| *known == name)
        .map_or_else(|| parse_number(name), |(call, _)| Ok(*call as u64))?;
    let mut args = [0; 4];
    for (at, word) in words.enumerate() {
        *args.get_mut(at).ok_or(EINVAL)? = parse_number(word)?;
    }
    // The stub calls belong to the kernel: some of them would take EL2 away behind our back. Exceptions have a file of their
    // own; without it EL2 knows no such call.
    if number < HVC_STUB_CALLS || (number == Call::Provoke as u64 && provoke::is_allowed()) {
        return Err(EPERM);
    }
    *files.last_call.lock() = files.service.hypercall(number, args)?;
    Ok(())
}

fn show_provoke(_: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    Provoke::ALL
        .iter()
        .try_for_each(|(_, name)| writeln!(f, "{name}"))
}

fn do_provoke(files: &Files, reader: &mut UserSliceReader) -> Result {
    let mut room = [0; LONGEST_WRITE];
    let bytes = read_bytes(reader, &mut room)?;
    let text = core::str::from_utf8(bytes).map_err(|_| EINVAL)?;
    let mut words = text.split_ascii_whitespace();
    let name = words.next().ok_or(EINVAL)?;
    let place = words.next().unwrap_or("call");
    let (way, _) = Provoke::ALL
        .iter()
        .find(|(_, known)| *known == name)
        .ok_or(EINVAL)?;
    let (at, _) = ProvokeAt::ALL
        .iter()
        .find(|(_, known)| *known == place)
        .ok_or(EINVAL)?;
    if words.next().is_some() {
        return Err(EINVAL);
    }
    if provoke::arm(*way, *at) {
        return Ok(());
    }
    files
        .service
        .hypercall(Call::Provoke as u64, [*way as u64, 0, 0, 0])
        .map(drop)
}

fn show_fail_nth(_: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (nth, taken) = inject::progress();
    writeln!(f, "fail_nth: {nth}")?;
    writeln!(f, "steps_taken: {taken}")
}

fn set_fail_nth(_: &Files, reader: &mut UserSliceReader) -> Result {
    let mut room = [0; LONGEST_WRITE];
    let bytes = read_bytes(reader, &mut room)?;
    let text = core::str::from_utf8(bytes).map_err(|_| EINVAL)?;
    inject::fail_nth(text.trim_ascii().parse().map_err(|_| EINVAL)?);
    Ok(())
}

/// The bytes that were written.
fn read_bytes<'a>(
    reader: &mut UserSliceReader,
    room: &'a mut [u8; LONGEST_WRITE],
) -> Result<&'a [u8]> {
    let bytes = room.get_mut(..reader.len()).ok_or(EINVAL)?;
    reader.clone_reader().read_slice(bytes)?;
    Ok(bytes)
}

/// A number in decimal, or in hexadecimal with 0x.
fn parse_number(word: &str) -> Result<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    }
    .map_err(|_| EINVAL)
}
