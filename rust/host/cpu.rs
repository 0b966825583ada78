// SPDX-License-Identifier: GPL-2.0-only

//! Host: one CPU: its books, and what the life cycle asks of it (`common::lifecycle`, which decides when).
//!
//! All functions that move a CPU run on that CPU with interrupts off ([`IrqsOff`]), so a CPU's state has one writer.

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    }, //
};

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

use super::{
    here::OnCpu,
    hooks::IrqsOff,
    inject::{
        self,
        Spoil, //
    },
    service::Service,
    timing, //
};
use crate::{
    arch::el1::{
        self,
        HvcRegs, //
    },
    common::{
        abi::{
            Call,
            CpuContext,
            FaultReport,
            SavedRegs,
            Status,
            HVC_STUB_ERR,
            RUN_VCPU, //
        },
        addr::PhysAddr,
        guest::ExitReason,
        lifecycle::{
            self,
            State, //
        },
        regs::{
            index,
            IMAGE, //
        },
    },
};

/// The register image of a CPU: the value of each register that it has.
pub(super) type Image = [Option<u64>; IMAGE.len()];

/// One possible CPU.
pub(crate) struct Cpu {
    number: u32,
    state: Atomic<u32>,
    /// Times that init was completed, and that the way back was.
    inits: Atomic<u64>,
    resets: Atomic<u64>,
    /// The image before the last init, and one bit for each register that exists here.
    before: [Atomic<u64>; IMAGE.len()],
    present: Atomic<u64>,
    /// See [`Self::recorders`].
    recorders: Atomic<u64>,
    /// What a comparison has found: (kept, read) of each register that differed, and one bit for each.
    different: [(Atomic<u64>, Atomic<u64>); IMAGE.len()],
    differs: AtomicU64,
    /// Its context page, in the kernel's linear map, and where init finds `boot` in it.
    context: NonNull<CpuContext>,
    boot_pa: PhysAddr,
}

// SAFETY: The context is pool memory, which outlives the `Cpu`; what is shared in it with EL2 is accessed by volatile
// reads and, while the CPU is at the stub, by its one writer.
unsafe impl Send for Cpu {}
// SAFETY: As above.
unsafe impl Sync for Cpu {}

const _: () = assert!(IMAGE.len() <= 64, "`present` has one bit per register");

impl Cpu {
    /// A CPU at the stub.
    ///
    /// # Safety
    ///
    /// `context` is a page of the pool that nobody else writes, filled but for `saved` and `present`, and outlives the
    /// result; `boot_pa` is where its `boot` is.
    pub(crate) unsafe fn new(number: u32, context: NonNull<CpuContext>, boot_pa: PhysAddr) -> Self {
        Self {
            number,
            state: Atomic::new(State::Stub as u32),
            inits: Atomic::new(0),
            resets: Atomic::new(0),
            before: [const { Atomic::new(0) }; IMAGE.len()],
            present: Atomic::new(0),
            recorders: Atomic::new(0),
            different: [const { (Atomic::new(0), Atomic::new(0)) }; IMAGE.len()],
            differs: AtomicU64::new(0),
            context,
            boot_pa,
        }
    }

    /// Where it is.
    pub(crate) fn state(&self) -> State {
        State::from_number(self.state.load(Relaxed)).unwrap_or(State::Faulted)
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u32, Relaxed);
    }

    /// Its number.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Times that init was completed.
    pub(crate) fn inits(&self) -> u64 {
        self.inits.load(Relaxed)
    }

    /// Times that the way back was completed.
    pub(crate) fn resets(&self) -> u64 {
        self.resets.load(Relaxed)
    }

    /// What EL2 has counted on this CPU: hypercalls, and exceptions taken at EL2.
    pub(crate) fn counters(&self) -> (u64, u64) {
        let context = self.context.as_ptr();
        // SAFETY: The context outlives `self`. EL2 may be counting, hence volatile; each is one aligned word.
        unsafe {
            (
                (&raw const (*context).hypercalls).read_volatile(),
                (&raw const (*context).faults).read_volatile(),
            )
        }
    }

    /// Takes the report of the last exception at EL2, if there is one that nobody has taken.
    pub(crate) fn take_report(&self) -> Option<FaultReport> {
        let place = self.report();
        // SAFETY: The context outlives `self`; the field is an aligned word that is only accessed atomically.
        let valid = unsafe { AtomicU64::from_ptr(&raw mut (*place).valid) };
        // Acquire pairs with the store-release of EL2, which comes after all else of the report.
        if valid.load(Ordering::Acquire) == 0 {
            return None;
        }
        // SAFETY: As above. EL2 may be writing the next report, if this one was an exception that the host itself made and was
        // told of: hence volatile; any value is valid.
        let report = unsafe { place.read_volatile() };
        // Of several who have read the report, one takes it.
        (valid.swap(0, Ordering::Relaxed) != 0).then_some(report)
    }

    fn report(&self) -> *mut FaultReport {
        // SAFETY: The context is a live allocation of that type; no reference is made.
        unsafe { &raw mut (*self.context.as_ptr()).report }
    }

    /// The image before the last init: (place, value), for the registers that exist.
    pub(crate) fn image_before(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let present = self.present.load(Relaxed);
        self.before
            .iter()
            .enumerate()
            .filter(move |(place, _)| (present >> place) & 1 != 0)
            .map(|(place, value)| (place, value.load(Relaxed)))
    }

    /// Keeps the image, and tells EL2 what to restore and which registers there are.
    pub(super) fn remember(&self, image: &Image, _irqs: &IrqsOff) {
        let spoilt = inject::spoils_on(Spoil::ImageCopy, self.number);
        let mut present = 0;
        for (place, (before, now)) in self.before.iter().zip(image).enumerate() {
            if let Some(now) = now {
                let spoil = u64::from(spoilt && place as u64 == index::SPOILT);
                before.store(*now ^ spoil, Relaxed);
                present |= 1 << place;
            }
        }
        self.present.store(present, Relaxed);
        let context = self.context.as_ptr();
        // SAFETY: The CPU is at the stub, so EL2 does not look at its context, and this is its one writer.
        unsafe {
            (&raw mut (*context).saved).write(saved(image));
            (&raw mut (*context).present).write(present);
            // No guest has been here yet.
            (&raw mut (*context).guest).write_bytes(0, 1);
        }
    }

    /// What it records by itself, see [`extra::recorders`].
    ///
    /// [`extra::recorders`]: crate::common::guest::extra::recorders
    #[inline]
    pub(crate) fn recorders(&self) -> u64 {
        self.recorders.load(Relaxed)
    }

    pub(super) fn set_recorders(&self, bits: u64, _irqs: &IrqsOff) {
        self.recorders.store(bits, Relaxed);
    }

    /// Its context page.
    pub(super) fn context(&self) -> NonNull<CpuContext> {
        self.context
    }

    /// Where init finds `boot` in it.
    pub(super) fn boot_pa(&self) -> PhysAddr {
        self.boot_pa
    }

    /// Init was completed.
    pub(super) fn count_init(&self) {
        self.inits.fetch_add(1, Relaxed);
    }

    /// The way back was completed.
    pub(super) fn count_reset(&self) {
        self.resets.fetch_add(1, Relaxed);
    }

    /// Keeps that a register was not handed back as it was found.
    pub(super) fn keep_difference(&self, place: usize, before: u64, now: u64) {
        if let Some((kept, read)) = self.different.get(place) {
            kept.store(before, Relaxed);
            read.store(now, Relaxed);
            // Release pairs with the Acquire of `tell_differences`.
            self.differs.fetch_or(1 << place, Ordering::Release);
        }
    }

    /// Says which registers were found to differ, once, and returns how many. Each is a bug of ours.
    pub(crate) fn tell_differences(&self) -> u32 {
        let differs = self.differs.swap(0, Ordering::Acquire);
        if differs == 0 {
            return 0;
        }
        let values = self.different.iter().zip(&IMAGE).enumerate();
        for (_, ((before, now), register)) in values.filter(|(at, _)| differs >> at & 1 != 0) {
            pr_err!(
                "CPU{}: {} is {:#x} and was {:#x}\n",
                self.number,
                register.name,
                now.load(Relaxed),
                before.load(Relaxed)
            );
        }
        let count = differs.count_ones();
        let why = match inject::spoils_on(Spoil::ImageCopy, self.number) {
            true => ", as fail_at asks for",
            false => "",
        };
        pr_err!(
            "CPU{}: EL2 register image differs in {count} registers{why}\n",
            self.number
        );
        count
    }

    /// Whether a guest can be entered here.
    #[inline]
    pub(crate) fn may_run(&self, service: &Service, irqs: &IrqsOff) -> bool {
        lifecycle::may_run(&OnCpu::new(self, service, irqs))
    }

    /// A call of this CPU's EL2.
    ///
    /// # Errors
    ///
    /// `EBUSY` if EL2 of this CPU is not ours, or no longer. `EIO` if the call ended in an exception at EL2: then the CPU is
    /// at the stub, with the register image compared.
    pub(crate) fn call(
        &self,
        service: &Service,
        call: u64,
        args: [u64; 4],
        irqs: &IrqsOff,
    ) -> Result<HvcRegs> {
        let here = OnCpu::new(self, service, irqs);
        if !lifecycle::may_call(&here) {
            return Err(EBUSY);
        }
        let [x1, x2, x3, x4] = args;
        // SAFETY: This CPU's EL2 is ours, and interrupts are off.
        let regs = unsafe { el1::hvc([call, x1, x2, x3, x4]) };
        match Status::from_x0(regs[0]) {
            Some(Status::Fault) => {
                lifecycle::fault(&here);
                Err(EIO)
            }
            None if regs[0] == HVC_STUB_ERR => {
                self.lost(&here);
                Err(EBUSY)
            }
            _ => Ok(regs),
        }
    }

    /// Runs the guest whose context EL2 sees at `hyp_va`.
    ///
    /// # Errors
    ///
    /// `EIO` if it ended in an exception at EL2: then the CPU is at the stub. `EBUSY` if it turns out to be there already, and
    /// the guest did not run. `EFAULT` if the context is not shared.
    #[inline]
    pub(crate) fn run_guest(
        &self,
        service: &Service,
        hyp_va: u64,
        irqs: &IrqsOff,
    ) -> Result<ExitReason> {
        loop {
            // SAFETY: This CPU's EL2 is ours (the caller has looked), and interrupts are off. The context belongs to
            // the caller.
            let (x0, x1) = unsafe { el1::hvc_run(RUN_VCPU, hyp_va) };
            if x0 == Status::Ok.to_x0() {
                return ExitReason::from_number(x1).ok_or(EFAULT);
            }
            self.admit_guest(service, x0, hyp_va, irqs)?;
        }
    }

    /// EL2 does not know the context, or no longer. The kernel must be itself for what follows: it may print.
    #[cold]
    fn admit_guest(&self, service: &Service, status: u64, hyp_va: u64, irqs: &IrqsOff) -> Result {
        timing::guest_left(irqs);
        let result = self.not_entered(service, status, hyp_va, irqs);
        timing::guest_again(irqs);
        result
    }

    fn not_entered(&self, service: &Service, status: u64, hyp_va: u64, irqs: &IrqsOff) -> Result {
        match Status::from_x0(status) {
            Some(Status::NotFound) => {
                let args = [hyp_va, 0, 0, 0];
                let [x0, ..] = self.call(service, Call::AdmitVcpu as u64, args, irqs)?;
                match Status::from_x0(x0) {
                    Some(Status::Ok) => Ok(()),
                    _ => Err(EFAULT),
                }
            }
            Some(Status::Fault) => {
                lifecycle::fault(&OnCpu::new(self, service, irqs));
                Err(EIO)
            }
            None if status == HVC_STUB_ERR => {
                self.lost(&OnCpu::new(self, service, irqs));
                Err(EBUSY)
            }
            _ => Err(EIO),
        }
    }

    /// The stub has answered: it has given this CPU back on somebody's request.
    fn lost(&self, here: &OnCpu<'_>) {
        if lifecycle::lost(here) {
            self.count_reset();
        }
    }

    /// Reads register `place` where it is now. The CPU's EL2 is ours.
    pub(crate) fn read_live(&self, service: &Service, place: usize, irqs: &IrqsOff) -> Result<u64> {
        self.call(service, Call::ReadReg as u64, [place as u64, 0, 0, 0], irqs)
            .map(|regs| regs[1])
    }
}

/// The value of the register at `place`; 0 if it does not exist here.
pub(super) fn value(image: &Image, place: u64) -> u64 {
    image.get(place as usize).copied().flatten().unwrap_or(0)
}

/// What reset has to write back, out of the image. All of these exist on every CPU.
fn saved(image: &Image) -> SavedRegs {
    SavedRegs {
        sctlr: value(image, index::SCTLR),
        vbar: value(image, index::VBAR),
        ttbr0: value(image, index::TTBR0),
        tcr: value(image, index::TCR),
        mair: value(image, index::MAIR),
        sp: value(image, index::SP),
    }
}
