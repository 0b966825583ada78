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
//! | `provoke` | write: the name of an exception to take at EL2 on the writer's CPU |
//! | `log` | the exceptions that were taken at EL2 |

use kernel::{
    debugfs::Scope,
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    uaccess::UserSliceReader, //
};

use super::{
    cpu::State,
    hooks,
    service::Service, //
};
use crate::{
    arch::el1::{
        HvcRegs,
        IrqsMasked, //
    },
    common::{
        abi::{
            Call,
            Provoke,
            HVC_STUB_CALLS, //
        },
        pool::Use,
        regs::{
            index,
            IMAGE, //
        },
    },
};

/// Longest text that a file takes, in bytes.
const LONGEST_WRITE: usize = 256;

/// What the files show.
#[pin_data]
pub(crate) struct Files {
    service: Arc<Service>,
    #[pin]
    last_call: Mutex<HvcRegs>,
}

/// Creates the directory. It goes away, after the last reader, when the result is dropped.
pub(crate) fn create(service: Arc<Service>) -> impl PinInit<Scope<Files>, Error> {
    let files = try_pin_init!(Files {
        service,
        last_call <- new_mutex!([0; 5]),
    });
    Scope::dir(files, c"eltwo", |files, dir| {
        dir.read_callback_file(c"cpus", files, &show_cpus);
        dir.read_callback_file(c"pool", files, &show_pool);
        dir.read_callback_file(c"tables", files, &show_tables);
        dir.read_callback_file(c"regs", files, &show_regs);
        dir.read_callback_file(c"log", files, &show_log);
        dir.read_write_callback_file(c"hypercall", files, &show_hypercall, &do_hypercall);
        dir.write_only_callback_file(c"provoke", files, &do_provoke);
    })
}

fn show_cpus(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "cpu state   vbar_el2           ttbr0_el2          sctlr_el2          inits resets hypercalls faults"
    )?;
    for (number, cpu) in files.service.cpus.iter().enumerate() {
        let online = hooks::is_online(number as u32);
        let state = if online { cpu.state().name() } else { "absent" };
        let live = LiveImage::read(&files.service, number as u32);
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
        let values = hooks::on_cpu(service, number, |service| {
            let masked = IrqsMasked::new();
            let mut values = [None; IMAGE.len()];
            if let Some(cpu) = service
                .this_cpu(&masked)
                .filter(|cpu| cpu.state() == State::Hyp)
            {
                for (place, _) in cpu.image_before() {
                    if let (Some(slot), Ok(value)) =
                        (values.get_mut(place), cpu.read_live(place, &masked))
                    {
                        *slot = Some(value);
                    }
                }
            }
            values
        });
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
    writeln!(f, "va_bits: {}", service.tables.layout().va_bits())
}

fn show_tables(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    files.service.tables.show(&files.service.pool, f)
}

fn show_log(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}", *files.service.log.lock())
}

fn show_hypercall(files: &Files, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [x0, x1, x2, x3, x4] = *files.last_call.lock();
    writeln!(f, "{x0:#x} {x1:#x} {x2:#x} {x3:#x} {x4:#x}")
}

fn do_hypercall(files: &Files, reader: &mut UserSliceReader) -> Result {
    let bytes = read_bytes(reader)?;
    let text = core::str::from_utf8(&bytes).map_err(|_| EINVAL)?;
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
    // The stub calls belong to the kernel: some of them would take EL2 away behind our back.
    if number < HVC_STUB_CALLS || number == Call::Provoke as u64 {
        return Err(EPERM);
    }
    *files.last_call.lock() = files.service.hypercall(number, args)?;
    Ok(())
}

fn do_provoke(files: &Files, reader: &mut UserSliceReader) -> Result {
    let bytes = read_bytes(reader)?;
    let name = core::str::from_utf8(&bytes)
        .map_err(|_| EINVAL)?
        .trim_ascii();
    let (way, _) = Provoke::ALL
        .iter()
        .find(|(_, known)| *known == name)
        .ok_or(EINVAL)?;
    files
        .service
        .hypercall(Call::Provoke as u64, [*way as u64, 0, 0, 0])
        .map(drop)
}

/// The bytes that were written.
fn read_bytes(reader: &mut UserSliceReader) -> Result<KVec<u8>> {
    let length = reader.len();
    if length > LONGEST_WRITE {
        return Err(EINVAL);
    }
    let mut bytes = KVec::new();
    reader.clone_reader().read_all(&mut bytes, GFP_KERNEL)?;
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
