// SPDX-License-Identifier: GPL-2.0-only

//! Host: the service: everything that a loaded eltwo consists of, built in order and taken apart in reverse.

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicBool,
        Ordering::Relaxed, //
    },
};

use kernel::{
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
    hooks,
    image::{
        self,
        Image, //
    },
    inject::{
        self,
        Step, //
    },
    linear,
    log::FaultLog,
    pool::{
        Demand,
        HostPool,
        Reserved, //
    },
    probe::Machine,
    ram::Ram,
    tables::{
        self,
        Tables, //
    },
};
use crate::{
    arch::el1::{
        HvcRegs,
        IrqsMasked, //
    },
    common::{
        abi::{
            BootParams,
            Call,
            CpuContext, //
        },
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
    pub(crate) cpus: KVec<Cpu>,
    /// Set once an exception was taken at EL2, or the system goes down: no CPU is brought up any more.
    closed: AtomicBool,
    #[pin]
    pub(crate) log: Mutex<FaultLog>,
    pub(crate) pool: HostPool,
}

impl Service {
    /// Builds everything that EL2 needs. No CPU is touched yet.
    pub(crate) fn build(machine: Machine) -> Result<Arc<Self>> {
        let granule = machine.granule;
        let header = image::header(granule)?;
        let stack_pages = STACK_BYTES.div_ceil(granule.size());
        let demand = Demand {
            image_pages: u64::from(header.image_bytes) >> granule.shift(),
            cpus: u64::from(nr_cpu_ids()),
            stack_pages,
        };
        let reserved = Reserved::new(*module_parameters::pool_kib.value(), demand, granule)?;
        inject::check(Step::RamMap)?;
        let ram = Ram::read()?;
        inject::check(Step::Layout)?;
        let layout = tables::layout(&machine, &ram, reserved.image(), demand)?;
        inject::check(Step::Image)?;
        let image = Image::new(header, reserved.image());
        image.fill(layout.image().first())?;
        let (ranges, ram_count) = ram.ranges();
        let pool = reserved.own(Facts {
            image_id: image.identity()?,
            pa_bits: u32::from(machine.pa_bits),
            wide: machine.wide,
            tlb: machine.tlb,
            speculative_at: machine.speculative_at,
            layout,
            ram: *ranges,
            ram_count,
        })?;
        let tables = Tables::build(&machine, &layout, &image, &pool)?;
        inject::check(Step::Contexts)?;
        let cpus = prepare_cpus(&image, &tables, &pool)?;
        // SAFETY: The image is in the linear map, all of it.
        unsafe {
            machine
                .cache
                .clean_to_poc(image.start().as_ptr(), image.bytes())
        };
        Arc::pin_init(
            pin_init!(Self {
                machine,
                image,
                tables,
                cpus,
                closed: AtomicBool::new(false),
                log <- new_mutex!(FaultLog::default()),
                pool,
            }),
            GFP_KERNEL,
        )
    }

    /// The CPU that this runs on.
    pub(crate) fn this_cpu(&self, _masked: &IrqsMasked) -> Option<&Cpu> {
        self.cpus.get(CpuId::current().as_u32() as usize)
    }

    /// Hotplug: this CPU has come.
    pub(crate) fn bring_up_this_cpu(&self) -> Result {
        let masked = IrqsMasked::new();
        let cpu = self.this_cpu(&masked).ok_or(EINVAL)?;
        if self.closed.load(Relaxed) {
            return Ok(());
        }
        cpu.bring_up(self, &masked)
    }

    /// Hotplug: this CPU goes.
    pub(crate) fn take_down_this_cpu(&self) {
        let masked = IrqsMasked::new();
        if let Some(cpu) = self.this_cpu(&masked) {
            cpu.take_down(self, &masked);
        }
    }

    /// CPU PM and system suspend: this CPU may lose its state.
    pub(crate) fn suspend_this_cpu(&self) {
        let masked = IrqsMasked::new();
        if let Some(cpu) = self.this_cpu(&masked) {
            cpu.suspend(&masked);
        }
    }

    /// CPU PM and system suspend: this CPU is back.
    pub(crate) fn resume_this_cpu(&self) {
        let masked = IrqsMasked::new();
        if self.closed.load(Relaxed) {
            return;
        }
        if let Some(cpu) = self.this_cpu(&masked) {
            cpu.resume(self, &masked);
        }
    }

    /// After hibernation the image's pages are clean to the PoU only, and init runs with the MMU off.
    pub(crate) fn clean_after_restore(&self) {
        // SAFETY: The image is in the linear map, all of it.
        unsafe {
            self.machine
                .cache
                .clean_to_poc(self.image.start().as_ptr(), self.image.bytes())
        };
    }

    /// Takes every CPU down for good: reboot, kexec, or an exception at EL2. Process context.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        hooks::on_each_cpu(self, Service::take_down_this_cpu);
    }

    /// A hypercall of this CPU, for process context.
    ///
    /// # Errors
    ///
    /// `EBUSY` if EL2 of this CPU is not ours. `EIO` if the call ended in an exception at EL2: it is in the log, the CPU is
    /// back at the stub, and the service is closed.
    pub(crate) fn hypercall(&self, call: u64, args: [u64; 4]) -> Result<HvcRegs> {
        let masked = IrqsMasked::new();
        let cpu = self.this_cpu(&masked).ok_or(EINVAL)?;
        if call == Call::Reset as u64 {
            cpu.take_down(self, &masked);
            return Ok([0; 5]);
        }
        let result = cpu.call(call, args, &masked);
        if result == Err(EIO) {
            self.contain(cpu, masked);
        }
        result
    }

    /// After an exception at EL2 of `cpu`, which is this one and at the stub: keeps the report, and closes the service.
    pub(crate) fn contain(&self, cpu: &Cpu, masked: IrqsMasked) {
        cpu.compare(self, &masked);
        drop(masked);
        self.log.lock().record(self, cpu);
        self.close();
    }

    /// Tells the kernel's log that we are here.
    pub(crate) fn announce(&self) {
        let pool = &self.pool.shared().pool;
        let total = pool.pages();
        pr_info!(
            "loaded: image {} KiB, pool {} KiB ({} of {total} pages used), {}-bit EL2 address space\n",
            self.image.bytes() / 1024,
            (u64::from(total) << self.machine.granule.shift()) / 1024,
            total - pool.pages_in(Use::Free),
            self.tables.layout().va_bits()
        );
    }

    /// Physical address of the part of `context` that init reads with the MMU off.
    pub(crate) fn boot_params_pa(&self, context: NonNull<CpuContext>) -> u64 {
        let base = linear::kern_to_phys(context.cast()).map_or(0, |pa| pa.raw());
        base + core::mem::offset_of!(CpuContext, boot) as u64
    }
}

/// Fills the context of each possible CPU.
fn prepare_cpus(image: &Image, tables: &Tables, pool: &HostPool) -> Result<KVec<Cpu>> {
    let header = image.header();
    let layout = tables.layout();
    let trampoline = layout.trampoline().first().raw();
    let shared_va = layout.linear_va(pool.shared_pa()?).ok_or(EFAULT)?;
    let mut cpus = KVec::with_capacity(nr_cpu_ids() as usize, GFP_KERNEL)?;
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
        // SAFETY: The page belongs to this CPU alone, and the pool outlives the list of CPUs.
        cpus.push(unsafe { Cpu::new(number, context) }, GFP_KERNEL)?;
    }
    Ok(cpus)
}
