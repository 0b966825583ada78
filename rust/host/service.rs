// SPDX-License-Identifier: GPL-2.0-only

//! Host: the service: everything that a loaded eltwo consists of, built in order and taken apart in reverse.

use core::mem::offset_of;

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
};

use super::{
    cpu::Cpu,
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
    ram::Ram,
    tables::{
        self,
        Tables, //
    },
    trouble::Trouble, //
};
use crate::{
    arch::el1::HvcRegs,
    bindings,
    common::{
        abi::{
            BootParams,
            Call,
            CpuContext, //
        },
        addr::Address,
        demand::Demand,
        pool::Use,
        regs::sctlr,
        shared::Facts, //
    },
    module_parameters,
};

/// Size of an EL2 stack, rounded up to whole pages.
const STACK_BYTES: u64 = 8192;

/// A loaded eltwo. Fields are dropped in order: the pool last, as everything else is in it.
#[pin_data]
pub(crate) struct Service {
    pub(crate) machine: Machine,
    pub(crate) image: Image,
    pub(crate) tables: Tables,
    pub(crate) cpus: KVVec<Cpu>,
    /// Set once an exception was taken at EL2, or the system goes down: no CPU is brought up any more.
    closed: Atomic<bool>,
    /// An exception was taken at EL2.
    failed: Atomic<bool>,
    /// It was, and [`Self::settle`] has not seen to it.
    unsettled: Atomic<bool>,
    /// The image must be cleaned to the PoC before the next init.
    stale: Atomic<bool>,
    #[pin]
    pub(crate) log: Mutex<FaultLog>,
    /// Where the contexts of vCPUs are.
    #[pin]
    pub(crate) contexts: Mutex<Chunks>,
    pub(crate) pool: HostPool,
}

impl Service {
    /// Builds everything that EL2 needs. No CPU is touched yet.
    pub(crate) fn build(machine: Machine) -> Result<Arc<Self>> {
        let granule = machine.granule;
        let header = image::header(granule)?;
        inject::check(Step::RamMap)?;
        let ram = Ram::read()?;
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
        inject::check(Step::Layout)?;
        let layout = tables::layout(&machine, &ram, reserved.image(), &demand)?;
        inject::check(Step::Image)?;
        let image = Image::new(header, reserved.image());
        image.fill(layout.image().first())?;
        let (ranges, ram_count) = ram.table();
        let pool = reserved.own(Facts {
            image_id: image.identity()?,
            pa_bits: u32::from(machine.pa_bits),
            wide: machine.wide,
            tlb: machine.tlb,
            map: demand.map,
            speculative_at: machine.speculative_at,
            provoke: inject::provoke(),
            layout,
            ram: *ranges,
            ram_count,
        })?;
        let tables = Tables::build(&machine, &layout, &image, &pool)?;
        inject::check(Step::Contexts)?;
        let cpus = prepare_cpus(&image, &tables, &pool)?;
        clean_image(&machine, &image);
        let service = pin_init!(Self {
            machine,
            image,
            tables,
            cpus,
            closed: Atomic::new(false),
            failed: Atomic::new(false),
            unsettled: Atomic::new(false),
            stale: Atomic::new(false),
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

    /// Hotplug: `cpu`, on which this runs, has come.
    pub(crate) fn online(&self, cpu: u32) -> Result {
        let outcome = hooks::on_cpu(cpu, |irqs| {
            let cpu = self.this_cpu(irqs)?;
            (!self.closed.load(Relaxed)).then(|| cpu.bring_up(self, irqs))
        });
        self.settle();
        match outcome.flatten() {
            Some(Err(trouble)) => {
                pr_err!("refused: CPU{cpu}: {trouble}\n");
                Err(trouble.to_errno())
            }
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Hotplug: `cpu`, on which this runs, goes.
    pub(crate) fn offline(&self, cpu: u32) {
        hooks::on_cpu(cpu, |irqs| self.take_this_cpu_down(irqs));
        self.settle();
    }

    fn take_this_cpu_down(&self, irqs: &IrqsOff) {
        let cpu = self.this_cpu(irqs);
        if let Some((cpu, Err(trouble))) = cpu.map(|cpu| (cpu, cpu.take_down(self, irqs))) {
            pr_err!(
                "CPU{}: not given back as it should be: {trouble}\n",
                cpu.number()
            );
        }
    }

    /// CPU PM and system suspend: this CPU may lose its state. Nothing may be printed here.
    pub(crate) fn suspend(&self, irqs: &IrqsOff) {
        if let Some(cpu) = self.this_cpu(irqs) {
            cpu.suspend(self, irqs);
        }
    }

    /// CPU PM and system suspend: this CPU is back. Nothing may be printed here: a CPU that was not taken shows as such in
    /// `debugfs/eltwo/cpus`.
    pub(crate) fn resume(&self, irqs: &IrqsOff) {
        if self.closed.load(Relaxed) {
            return;
        }
        if let Some(cpu) = self.this_cpu(irqs) {
            let _ = cpu.resume(self, irqs);
        }
    }

    /// From here on the image's pages may be clean to the PoU only: a kernel that resumes from hibernation restores them so.
    /// The mark is in the restored memory too.
    pub(crate) fn image_may_go_stale(&self) {
        self.stale.store(true, Relaxed);
    }

    /// Cleans the image to the PoC again if that may be needed: it runs with the MMU off.
    pub(crate) fn clean_if_stale(&self) {
        if self.stale.xchg(false, Full) {
            clean_image(&self.machine, &self.image);
        }
    }

    /// An exception was taken at EL2, on any CPU, in any context: no CPU is brought up any more, and none waits for what the
    /// failed one held. The rest is for [`Self::settle`].
    pub(crate) fn on_fault(&self) {
        self.closed.store(true, Relaxed);
        self.failed.store(true, Relaxed);
        self.pool.shared().lock.break_up();
        self.unsettled.store(true, Relaxed);
    }

    /// Whether an exception was ever taken at EL2, on any CPU. Then no guest runs any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Finishes what a fault left to do: takes every other CPU down and logs the reports. Process context.
    pub(crate) fn settle(&self) {
        if self.unsettled.xchg(false, Full) {
            hooks::on_each_cpu(|irqs| self.take_this_cpu_down(irqs));
        }
        for cpu in &self.cpus {
            if let Some(report) = cpu.take_report() {
                self.log.lock().record(self, cpu.number(), report);
            }
        }
    }

    /// Takes every CPU down for good: reboot and kexec. Process context.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        hooks::on_each_cpu(|irqs| self.take_this_cpu_down(irqs));
    }

    /// A hypercall, made on the CPU of the caller. Process context.
    ///
    /// # Errors
    ///
    /// `EBUSY` if EL2 of this CPU is not ours. `EIO` if the call ended in an exception at EL2: it is in the log, the CPU is
    /// back at the stub, and the service is closed.
    pub(crate) fn hypercall(&self, call: u64, args: [u64; 4]) -> Result<HvcRegs> {
        let outcome = hooks::on_cpu(CpuId::current().as_u32(), |irqs| {
            let cpu = self.this_cpu(irqs).ok_or(EINVAL)?;
            if call == Call::Reset as u64 {
                cpu.take_down(self, irqs).map_err(Trouble::to_errno)?;
                return Ok([0; 5]);
            }
            cpu.call(self, call, args, irqs)
        });
        self.settle();
        outcome.unwrap_or(Err(EBUSY))
    }

    /// A hypercall about what all CPUs share: made on the CPU of the caller or, if EL2 of that one is not ours, on another.
    /// Process context.
    ///
    /// # Errors
    ///
    /// `EBUSY` if EL2 of no CPU is ours. Otherwise as [`Self::hypercall`].
    pub(crate) fn hypercall_anywhere(&self, call: u64, args: [u64; 4]) -> Result<HvcRegs> {
        let mut outcome = self.hypercall(call, args);
        for cpu in &self.cpus {
            if outcome != Err(EBUSY) {
                break;
            }
            let there = hooks::on_cpu(cpu.number(), |irqs| cpu.call(self, call, args, irqs));
            outcome = there.unwrap_or(Err(EBUSY));
            self.settle();
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

/// Makes the image what every CPU fetches and reads, with the MMU off as well.
fn clean_image(machine: &Machine, image: &Image) {
    let start = image.start().as_ptr();
    // SAFETY: The image is in the linear map, all of it. The I-caches of all CPUs may hold what this memory was before.
    unsafe {
        bindings::caches_clean_inval_pou(start as usize, start as usize + image.bytes());
        machine.cache.clean_to_poc(start, image.bytes());
    }
}

/// Fills the context of each possible CPU.
fn prepare_cpus(image: &Image, tables: &Tables, pool: &HostPool) -> Result<KVVec<Cpu>> {
    let header = image.header();
    let layout = tables.layout();
    let trampoline = layout.trampoline().first().raw();
    let shared_va = layout.linear_va(pool.shared_pa()?).ok_or(EFAULT)?;
    let mut cpus = inject::loading("the list of CPUs", |flags| {
        KVVec::with_capacity(nr_cpu_ids() as usize, flags)
    })?;
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
