// SPDX-License-Identifier: GPL-2.0-only

//! Host: the service: everything that a loaded eltwo consists of, built in order and taken apart in reverse.

use core::{
    mem::offset_of,
    sync::atomic::{
        fence,
        AtomicBool,
        AtomicU32,
        Ordering, //
    },
};

use kernel::{
    alloc::Flags as Allocation,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

use super::{
    cpu::Cpu,
    here::OnCpu,
    hooks::{
        self,
        IrqsOff, //
    },
    image::{
        self,
        Image, //
    },
    inject::{
        self,
        Step, //
    },
    kvm::contexts::Chunks,
    linear,
    log::FaultLog,
    map_param,
    parameter,
    pool::{
        HostPool,
        Reserved, //
    },
    probe::Machine,
    provoke,
    ram::Ram,
    refused::Refused,
    tables::{
        self,
        Tables, //
    },
    timing::IrqsMasked,
    trouble::to_errno, //
};
use crate::{
    arch::el1::{
        self,
        HvcRegs, //
    },
    common::{
        abi::{
            BootParams,
            Call,
            CpuContext, //
        },
        addr::Address,
        demand::Demand,
        lifecycle::{
            self,
            Done,
            Gate,
            Hook,
            Machine as AllCpus,
            Trouble, //
        },
        pool::Use,
        regs::sctlr,
        shared::Facts, //
    },
    module_parameters,
};

/// Size of an EL2 stack, rounded up to whole pages.
const STACK_BYTES: u64 = 8192;

/// [`Gate`], shared by all CPUs.
pub(crate) struct Flags(AtomicU32);

impl Flags {
    /// What is set.
    #[inline]
    pub(super) fn get(&self) -> Gate {
        Gate::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Adds `what`.
    pub(super) fn raise(&self, what: Gate) {
        self.0.fetch_or(what.bits(), Ordering::SeqCst);
        // Before the mask of online CPUs is read, or an IPI is sent: a CPU that is not told sees the flags.
        fence(Ordering::SeqCst);
    }

    fn lower(&self, what: Gate) -> Gate {
        Gate::from_bits(self.0.fetch_and(!what.bits(), Ordering::SeqCst))
    }
}

/// A loaded eltwo. Fields are dropped in order: the pool last, as everything else is in it.
#[pin_data]
pub(crate) struct Service {
    pub(crate) machine: Machine,
    pub(crate) image: Image,
    pub(crate) tables: Tables,
    pub(crate) cpus: KVVec<Cpu>,
    /// What holds for all CPUs.
    pub(super) flags: Flags,
    /// The image must be cleaned to the PoC before the next init.
    pub(super) stale: AtomicBool,
    #[pin]
    pub(crate) log: Mutex<FaultLog>,
    /// Where the contexts of vCPUs are.
    #[pin]
    pub(crate) contexts: Mutex<Chunks>,
    pub(crate) pool: HostPool,
}

impl Service {
    /// Builds everything that EL2 needs. No CPU is touched yet.
    pub(crate) fn build(machine: Machine) -> Result<Arc<Self>, Refused> {
        let granule = machine.granule;
        let header = image::header(granule)?;
        let ram = inject::at(Step::RamMap, |_| Ram::read())?;
        let demand = Demand {
            granule,
            max_va_bits: machine.va_bits_max.into(),
            map: map_param::mode(),
            ram: ram.ranges(),
            image_pages: u64::from(header.image_bytes) >> granule.shift(),
            cpus: u64::from(nr_cpu_ids()),
            stack_pages: STACK_BYTES.div_ceil(granule.size()),
        };
        let reserved = Reserved::new(parameter(module_parameters::pool_kib.value()), &demand)?;
        let layout = inject::at(Step::Layout, |_| {
            tables::layout(&machine, &ram, reserved.image(), &demand)
        })?;
        let image = Image::new(header, reserved.image());
        inject::at(Step::Image, |_| image.fill(layout.image().first()))?;
        let (ranges, ram_count) = ram.table();
        let pool = inject::loading("the books of the pool", |_| {
            reserved.own(Facts {
                image_id: image.identity()?,
                pa_bits: u32::from(machine.pa_bits),
                wide: machine.wide,
                tlb: machine.tlb,
                map: demand.map,
                speculative_at: machine.speculative_at,
                provoke: provoke::is_allowed(),
                layout,
                ram: *ranges,
                ram_count,
            })
        })?;
        let tables = Tables::build(&machine, &layout, &image, &pool)?;
        let cpus = inject::at(Step::Contexts, |flags| {
            prepare_cpus(&image, &tables, &pool, flags)
        })?;
        clean_image(&machine, &image);
        let service = pin_init!(Self {
            machine,
            image,
            tables,
            cpus,
            flags: Flags(AtomicU32::new(Gate::OPEN.bits())),
            stale: AtomicBool::new(false),
            log <- new_mutex!(FaultLog::default()),
            contexts <- new_mutex!(Chunks::default()),
            pool,
        });
        inject::loading("the service", |flags| Arc::pin_init(service, flags))
    }

    /// The CPU that this runs on.
    pub(crate) fn this_cpu(&self, _irqs: &IrqsOff) -> Option<&Cpu> {
        self.cpus.get(CpuId::current().as_u32() as usize)
    }

    /// Hotplug: `cpu`, on which this runs, has come. If it cannot serve, it goes offline again: a CPU without us would run
    /// no guest, and the scheduler does not know that.
    pub(crate) fn online(&self, cpu: u32) -> Result {
        lifecycle::service::online(self, cpu).map_or_else(
            |trouble| {
                pr_err!("refused: CPU{cpu}: {trouble}\n");
                Err(to_errno(trouble))
            },
            |_| Ok(()),
        )
    }

    /// Hotplug: `cpu`, on which this runs, goes.
    pub(crate) fn offline(&self, cpu: u32) {
        if let Err(trouble) = lifecycle::service::offline(self, cpu) {
            not_given_back(cpu, trouble);
        }
    }

    /// CPU PM and system suspend: this CPU may lose its state, or is back. Nothing may be printed here: a CPU that was not
    /// taken shows as such in `debugfs/eltwo/cpus`.
    pub(crate) fn sleep(&self, irqs: &IrqsOff, hook: Hook) {
        if let Some(cpu) = self.this_cpu(irqs) {
            let _ = lifecycle::run(&OnCpu::new(cpu, self, irqs), hook);
        }
    }

    /// From here on the image's pages may be clean to the PoU only: a kernel that resumes from hibernation restores them so.
    /// The mark is in the restored memory too.
    pub(crate) fn image_may_go_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    /// Cleans the image to the PoC again: it runs with the MMU off.
    pub(super) fn clean_image(&self) {
        clean_image(&self.machine, &self.image);
    }

    /// Whether an exception was ever taken at EL2, on any CPU. Then no guest runs any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.flags.get().has_failed()
    }

    /// Whether CPUs are still taken.
    ///
    /// # Errors
    ///
    /// `EIO` after a fault, `EBUSY` when the system goes down.
    pub(crate) fn still_open(&self) -> Result {
        match self.flags.get() {
            gate if gate.has_failed() => Err(EIO),
            gate if gate.is_closed() => Err(EBUSY),
            _ => Ok(()),
        }
    }

    /// Finishes what a fault left to do: takes every other CPU down and logs the reports. Process context.
    pub(crate) fn settle(&self) {
        lifecycle::service::settle(self);
    }

    /// A hypercall, made on the CPU of the caller. Process context.
    ///
    /// # Errors
    ///
    /// `EBUSY` if EL2 of this CPU is not ours. `EIO` if the call ended in an exception at EL2: it is in the log, the CPU is
    /// back at the stub, and the service is closed.
    pub(crate) fn hypercall(&self, call: u64, args: [u64; 4]) -> Result<HvcRegs> {
        let outcome = self.call_here(call, args, IrqsMasked::new().proof());
        self.settle();
        outcome
    }

    /// Where the caller is cannot be asked first and gone to then: it may have moved, and that CPU be offline.
    fn call_here(&self, call: u64, args: [u64; 4], irqs: &IrqsOff) -> Result<HvcRegs> {
        let cpu = self.this_cpu(irqs).ok_or(EINVAL)?;
        if call == Call::Reset as u64 {
            lifecycle::run(&OnCpu::new(cpu, self, irqs), Hook::Down).map_err(to_errno)?;
            return Ok([0; 5]);
        }
        cpu.call(self, call, args, irqs)
    }

    /// A hypercall about what all CPUs share: made on the CPU of the caller or, if EL2 of that one is not ours, on another.
    /// Process context.
    ///
    /// # Errors
    ///
    /// `EBUSY` if EL2 of no CPU is ours. Otherwise as [`Self::hypercall`].
    pub(crate) fn hypercall_anywhere(&self, call: u64, args: [u64; 4]) -> Result<HvcRegs> {
        let mut outcome = self.hypercall(call, args);
        if outcome != Err(EBUSY) {
            return outcome;
        }
        // Else one could go behind the look at it and another come before: there was always one that is ours, and none is found.
        let _held = hooks::HotplugHeld::new();
        for cpu in &self.cpus {
            let there = hooks::on_cpu(cpu.number(), |irqs| cpu.call(self, call, args, irqs));
            outcome = there.unwrap_or(Err(EBUSY));
            self.settle();
            if outcome != Err(EBUSY) {
                break;
            }
        }
        outcome
    }

    /// Tells the kernel's log that we are here.
    pub(crate) fn announce(&self) {
        let pool = &self.pool.shared().pool;
        let total = pool.pages();
        pr_info!(
            "loaded: image {} KiB, pool {} KiB ({} of {total} pages used), {}-bit EL2 address space, map={}\n",
            self.image.bytes() / 1024,
            (u64::from(total) << self.machine.granule.shift()) / 1024,
            total - pool.pages_in(Use::Free),
            self.tables.layout().va_bits(),
            self.pool.shared().facts.map.name()
        );
    }
}

impl AllCpus for Service {
    fn gate(&self) -> Gate {
        self.flags.get()
    }

    fn raise(&self, what: Gate) {
        self.flags.raise(what);
    }

    fn lower(&self, what: Gate) -> Gate {
        self.flags.lower(what)
    }

    fn tell(&self, cpu: u32, hook: Hook) -> Option<Result<Done, Trouble>> {
        hooks::on_cpu(cpu, |irqs| {
            let cpu = self.this_cpu(irqs)?;
            Some(lifecycle::run(&OnCpu::new(cpu, self, irqs), hook))
        })
        .flatten()
    }

    fn tell_all(&self, hook: Hook) {
        hooks::on_each_cpu(|irqs| {
            let Some(cpu) = self.this_cpu(irqs) else {
                return;
            };
            if let Err(trouble) = lifecycle::run(&OnCpu::new(cpu, self, irqs), hook) {
                not_given_back(cpu.number(), trouble);
            }
        });
    }

    fn report(&self) {
        // Before a report is taken: who finds none has waited until it is in the log.
        let mut log = self.log.lock();
        for cpu in &self.cpus {
            if let Some(report) = cpu.take_report() {
                log.record(self, cpu.number(), report);
            }
            cpu.tell_differences();
        }
    }
}

fn not_given_back(cpu: u32, trouble: Trouble) {
    pr_err!("CPU{cpu}: not given back as it should be: {trouble}\n");
}

/// Makes the image what every CPU fetches and reads, with the MMU off as well.
fn clean_image(machine: &Machine, image: &Image) {
    let start = image.start().as_ptr();
    // SAFETY: The image is in the linear map, all of it.
    unsafe { machine.cache.clean_to_poc(start, image.bytes()) };
    // The I-caches of all CPUs may hold what this memory was before, at VAs that are not this one: a CPU on which SCTLR_EL2.I is
    // set fetches its first instructions through them.
    el1::invalidate_icache();
}

/// Fills the context of each possible CPU.
fn prepare_cpus(
    image: &Image,
    tables: &Tables,
    pool: &HostPool,
    flags: Allocation,
) -> Result<KVVec<Cpu>> {
    let header = image.header();
    let layout = tables.layout();
    let trampoline = layout.trampoline().first().raw();
    let shared_va = layout.linear_va(pool.shared_pa()?).ok_or(EFAULT)?;
    let mut cpus = KVVec::with_capacity(nr_cpu_ids() as usize, flags)?;
    for number in 0..nr_cpu_ids() {
        let stack = layout.stack(number).ok_or(EFAULT)?;
        let place = layout.context(number).ok_or(EFAULT)?.first();
        let pa = tables.runtime_pa(pool, place).ok_or(EFAULT)?;
        let context = linear::phys_to_kern(pa).cast::<CpuContext>();
        // SAFETY: The page is fresh from the pool and zeroed, which is a valid `CpuContext`; nobody else knows it yet.
        unsafe {
            let context = &mut *context.as_ptr();
            context.stack_top = stack.last().raw() + 1;
            context.shared_va = shared_va.raw();
            context.cpu = u64::from(number);
            context.boot = BootParams {
                mair: tables.mair(),
                tcr: tables.tcr(),
                ttbr_boot: tables.ttbr_boot(),
                ttbr_runtime: tables.ttbr_runtime(),
                sctlr: sctlr::MMU_ON,
                vbar: layout.image().first().raw() + u64::from(header.vectors),
                context_va: place.raw(),
                trampoline_offset: trampoline.wrapping_sub(image.base().raw()),
                reset_va: trampoline + u64::from(header.entry_reset),
            };
        }
        let boot_pa = pa
            .checked_add(offset_of!(CpuContext, boot) as u64)
            .ok_or(EFAULT)?;
        // SAFETY: The page belongs to this CPU alone, and the pool outlives the list of CPUs.
        cpus.push_within_capacity(unsafe { Cpu::new(number, context, boot_pa) })
            .map_err(|_| ENOMEM)?;
    }
    Ok(cpus)
}
