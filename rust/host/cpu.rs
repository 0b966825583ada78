// SPDX-License-Identifier: GPL-2.0-only

//! Host: one CPU and the state machine that everything goes through which moves it.
//!
//! ```text
//!            bring_up                 verified
//!   Stub ---------------> Boot ---------------> Hyp
//!    ^  \                   |                    | take_down: offline, rmmod, kexec, suspend
//!    |   `--> Refused       v                    | an exception at EL2 (then Faulted)
//!    '------------------- (reset) <--------------'
//! ```
//!
//! All functions that move a CPU run on that CPU with interrupts masked, so a CPU's state has one writer.

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicBool,
        AtomicU64,
        AtomicU8,
        Ordering::Relaxed, //
    },
};

use kernel::prelude::*;

use super::{
    inject::{
        self,
        Step, //
    },
    probe,
    service::Service, //
};
use crate::{
    arch::el1::{
        self,
        HvcRegs,
        IrqsMasked, //
    },
    common::{
        abi::{
            Call,
            CpuContext,
            FaultReport,
            SavedRegs,
            Status,
            ABI_VERSION,
            HVC_SOFT_RESTART,
            RUN_VCPU, //
        },
        guest::ExitReason,
        regs::{
            self,
            index,
            Needs,
            IMAGE, //
        },
    },
};

/// Where a CPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// The kernel's stub owns EL2 of this CPU, as before we came; also while it is offline.
    Stub = 0,
    /// On its way to EL2.
    Boot = 1,
    /// Ours.
    Hyp = 2,
    /// It was not taken, or could not be; the stub owns its EL2.
    Refused = 3,
    /// It took an exception at EL2; the stub owns its EL2 again.
    Faulted = 4,
}

impl State {
    fn from_number(number: u8) -> State {
        match number {
            1 => State::Boot,
            2 => State::Hyp,
            3 => State::Refused,
            4 => State::Faulted,
            _ => State::Stub,
        }
    }

    /// As debugfs shows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Stub => "stub",
            State::Boot => "boot",
            State::Hyp => "hyp",
            State::Refused => "refused",
            State::Faulted => "faulted",
        }
    }
}

/// The register image of a CPU: the value of each register that it has.
type Image = [Option<u64>; IMAGE.len()];

/// One possible CPU.
pub(crate) struct Cpu {
    number: u32,
    state: AtomicU8,
    /// It was ours when it went to sleep, and is to be ours when it wakes.
    asleep: AtomicBool,
    /// Times that init was completed, and that the way back was.
    inits: AtomicU64,
    resets: AtomicU64,
    /// The image before the last init, and whether each register exists here.
    before: [AtomicU64; IMAGE.len()],
    present: AtomicU64,
    /// Its context page, in the kernel's linear map.
    context: NonNull<CpuContext>,
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
    /// `context` is a page of the pool that nobody else writes, filled but for `saved`, and outlives the result.
    pub(crate) unsafe fn new(number: u32, context: NonNull<CpuContext>) -> Self {
        Self {
            number,
            state: AtomicU8::new(State::Stub as u8),
            asleep: AtomicBool::new(false),
            inits: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            before: [const { AtomicU64::new(0) }; IMAGE.len()],
            present: AtomicU64::new(0),
            context,
        }
    }

    /// Where it is.
    pub(crate) fn state(&self) -> State {
        State::from_number(self.state.load(Relaxed))
    }

    fn set_state(&self, state: State) {
        self.state.store(state as u8, Relaxed);
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
        // SAFETY: The context outlives `self`, and after a fault EL2 of this CPU is not ours, so nobody writes there.
        let report = unsafe { place.read_volatile() };
        if report.valid == 0 {
            return None;
        }
        // SAFETY: As above.
        unsafe { (&raw mut (*place).valid).write_volatile(0) };
        Some(report)
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

    /// From the stub to EL2. Nothing is left behind if it fails.
    pub(crate) fn bring_up(&self, service: &Service, masked: &IrqsMasked) -> Result {
        if self.state() == State::Hyp {
            return Ok(());
        }
        self.set_state(State::Boot);
        let result = self.try_bring_up(service, masked);
        self.set_state(match result {
            Ok(()) => State::Hyp,
            Err(_) => State::Refused,
        });
        result
    }

    fn try_bring_up(&self, service: &Service, masked: &IrqsMasked) -> Result {
        inject::check_on(Step::CpuAdmit, self.number)?;
        probe::admit_this_cpu(&service.machine, self.number)?;
        inject::check_on(Step::CpuSave, self.number)?;
        let image = self.read_image(service, masked)?;
        self.remember(&image);
        self.enter(service, masked, saved(&image)?)?;
        self.verify(masked).inspect_err(|_| {
            // The CPU is at EL2 with us: take it back by the way that always works.
            let _ = self.leave(masked);
        })?;
        self.inits.fetch_add(1, Relaxed);
        Ok(())
    }

    /// From EL2 to the stub, with the register image compared. Idempotent.
    pub(crate) fn take_down(&self, service: &Service, masked: &IrqsMasked) {
        self.asleep.store(false, Relaxed);
        if self.state() != State::Hyp {
            return;
        }
        if self.leave(masked) {
            self.compare(service, masked);
        }
    }

    /// As [`Self::take_down`] for a nap that may last microseconds: no comparison, no message.
    pub(crate) fn suspend(&self, masked: &IrqsMasked) {
        if self.state() == State::Hyp && self.leave(masked) {
            self.asleep.store(true, Relaxed);
        }
    }

    /// Undoes [`Self::suspend`], if there was one.
    pub(crate) fn resume(&self, service: &Service, masked: &IrqsMasked) {
        if self.asleep.swap(false, Relaxed) {
            if let Err(error) = self.bring_up(service, masked) {
                pr_err!("CPU{}: not taken after a nap: {error:?}\n", self.number);
            }
        }
    }

    /// A call of this CPU's EL2.
    ///
    /// # Errors
    ///
    /// `EBUSY` if EL2 of this CPU is not ours, `EIO` if the call ended in an exception at EL2: then the CPU is at the
    /// stub.
    pub(crate) fn call(&self, call: u64, args: [u64; 4], _masked: &IrqsMasked) -> Result<HvcRegs> {
        if self.state() != State::Hyp {
            return Err(EBUSY);
        }
        let [x1, x2, x3, x4] = args;
        // SAFETY: This CPU's EL2 is ours, and interrupts are masked.
        let regs = unsafe { el1::hvc([call, x1, x2, x3, x4]) };
        if Status::from_x0(regs[0]) == Some(Status::Fault) {
            self.set_state(State::Faulted);
            return Err(EIO);
        }
        Ok(regs)
    }

    /// Runs the guest whose context EL2 sees at `hyp_va`.
    ///
    /// # Errors
    ///
    /// `EIO` if it ended in an exception at EL2: then the CPU is at the stub. `EFAULT` if the context is not shared.
    #[expect(dead_code, reason = "for host::kvm, which is not built yet")]
    #[inline]
    pub(crate) fn run_guest(&self, hyp_va: u64, masked: &IrqsMasked) -> Result<ExitReason> {
        loop {
            // SAFETY: This CPU's EL2 is ours (the caller has looked), and interrupts are masked. The context belongs to
            // the caller.
            let (x0, x1) = unsafe { el1::hvc_run(RUN_VCPU, hyp_va) };
            if x0 == Status::Ok.to_x0() {
                return ExitReason::from_number(x1).ok_or(EFAULT);
            }
            self.admit_guest(x0, hyp_va, masked)?;
        }
    }

    /// EL2 does not know the context, or no longer.
    #[cold]
    fn admit_guest(&self, status: u64, hyp_va: u64, masked: &IrqsMasked) -> Result {
        match Status::from_x0(status) {
            Some(Status::NotFound) => {
                let [x0, ..] = self.call(Call::AdmitVcpu as u64, [hyp_va, 0, 0, 0], masked)?;
                match Status::from_x0(x0) {
                    Some(Status::Ok) => Ok(()),
                    _ => Err(EFAULT),
                }
            }
            _ => {
                self.set_state(State::Faulted);
                Err(EIO)
            }
        }
    }

    /// Reads register `place` where it is now. The CPU's EL2 is ours.
    pub(crate) fn read_live(&self, place: usize, masked: &IrqsMasked) -> Result<u64> {
        self.call(Call::ReadReg as u64, [place as u64, 0, 0, 0], masked)
            .map(|regs| regs[1])
    }

    /// Reads one register by way of the kernel's stub, which leaves everything as it is.
    fn read_at_stub(&self, service: &Service, place: usize, _masked: &IrqsMasked) -> u64 {
        let entry = service.image.entry_read_reg_pa();
        // SAFETY: The stub owns EL2 of this CPU. The page at `entry` has been cleaned to the PoC, reads one register and
        // returns.
        let [x0, ..] = unsafe { el1::hvc([HVC_SOFT_RESTART, entry, place as u64, 0, 0]) };
        x0
    }

    fn read_image(&self, service: &Service, masked: &IrqsMasked) -> Result<Image> {
        let mut image = [None; IMAGE.len()];
        for (place, register) in IMAGE.iter().enumerate() {
            let icc_sre = image.get(index::ICC_SRE as usize).copied().flatten();
            let exists = probe::this_cpu_has(register.needs)
                && (register.needs != Needs::GicSre
                    || icc_sre.is_some_and(|sre| sre & regs::ICC_SRE_EL2_SRE != 0));
            if let Some(slot) = image.get_mut(place).filter(|_| exists) {
                *slot = Some(self.read_at_stub(service, place, masked));
            }
        }
        if value(&image, index::HCR)? & regs::hcr::E2H != 0 {
            pr_err!("refused: CPU{}: EL2 runs with HCR_EL2.E2H=1, which is not supported; on a CPU that has VHE only no boot argument changes that, elsewhere remove what set it\n", self.number);
            return Err(ENODEV);
        }
        if value(&image, index::SCTLR)? & regs::sctlr::M != 0 {
            pr_err!("refused: CPU{}: the MMU of EL2 is on under the stub, so EL2 is in use; remove what uses it\n", self.number);
            return Err(EBUSY);
        }
        Ok(image)
    }

    fn remember(&self, image: &Image) {
        let mut present = 0;
        for (place, (before, now)) in self.before.iter().zip(image).enumerate() {
            if let Some(now) = now {
                before.store(*now, Relaxed);
                present |= 1 << place;
            }
        }
        self.present.store(present, Relaxed);
    }

    /// Init: one HVC, from the stub to the runtime address space.
    fn enter(&self, service: &Service, _masked: &IrqsMasked, saved: SavedRegs) -> Result {
        inject::check_on(Step::CpuInit, self.number)?;
        let context = self.context.as_ptr();
        // SAFETY: The CPU is at the stub, so EL2 does not look at its context, and this is its one writer.
        unsafe {
            (&raw mut (*context).saved).write(saved);
            // No guest has been here yet.
            (&raw mut (*context).guest).write_bytes(0, 1);
        }
        // SAFETY: The context is in the kernel's linear map. Init reads `boot` in it with the MMU off; and no line of
        // this page may stay behind in the cache of a CPU that goes away.
        unsafe {
            service
                .machine
                .cache
                .clean_to_poc(context.cast(), size_of::<CpuContext>())
        };
        let entry = service.image.entry_init_pa();
        let params = service.boot_params_pa(self.context);
        // SAFETY: The stub owns EL2. The image and `boot` are complete and cleaned to the PoC, the tables are published.
        let [x0, ..] = unsafe { el1::hvc([HVC_SOFT_RESTART, entry, params, 0, 0]) };
        if x0 != 0 {
            pr_err!("CPU{}: init answered {x0:#x}\n", self.number);
            return Err(EIO);
        }
        Ok(())
    }

    fn verify(&self, _masked: &IrqsMasked) -> Result {
        inject::check_on(Step::CpuVerify, self.number)?;
        // SAFETY: Init has just made EL2 of this CPU ours.
        let [x0, x1, ..] = unsafe { el1::hvc([Call::Version as u64, 0, 0, 0, 0]) };
        if Status::from_x0(x0) != Some(Status::Ok) || x1 != ABI_VERSION {
            pr_err!(
                "CPU{}: EL2 answered {x0:#x} {x1:#x} to the first call\n",
                self.number
            );
            return Err(EIO);
        }
        Ok(())
    }

    /// Reset: EL2 of this CPU is the stub's again. False if EL2 did not answer as it should.
    fn leave(&self, _masked: &IrqsMasked) -> bool {
        // SAFETY: EL2 of this CPU is ours. The call is answered by the stub's exception return.
        let [x0, ..] = unsafe { el1::hvc([Call::Reset as u64, 0, 0, 0, 0]) };
        let done = x0 == 0;
        self.set_state(if done { State::Stub } else { State::Faulted });
        if done {
            self.resets.fetch_add(1, Relaxed);
        } else {
            pr_err!("CPU{}: reset answered {x0:#x}\n", self.number);
        }
        done
    }

    /// Compares the register image with the one before init. A difference is a bug of ours.
    pub(crate) fn compare(&self, service: &Service, masked: &IrqsMasked) {
        let mut equal = 0;
        let mut different = 0;
        for (place, before) in self.image_before() {
            let now = self.read_at_stub(service, place, masked);
            if now == before {
                equal += 1;
            } else {
                different += 1;
                let name = IMAGE.get(place).map_or("?", |register| register.name);
                pr_err!(
                    "CPU{}: {name} is {now:#x} and was {before:#x}\n",
                    self.number
                );
            }
        }
        if different == 0 {
            pr_info!(
                "CPU{}: EL2 register image equal ({equal} registers)\n",
                self.number
            );
        } else {
            pr_err!(
                "CPU{}: EL2 register image differs in {different} registers\n",
                self.number
            );
        }
    }
}

fn value(image: &Image, place: u64) -> Result<u64> {
    image.get(place as usize).copied().flatten().ok_or(EIO)
}

/// What reset has to write back, out of the image.
fn saved(image: &Image) -> Result<SavedRegs> {
    Ok(SavedRegs {
        sctlr: value(image, index::SCTLR)?,
        vbar: value(image, index::VBAR)?,
        ttbr0: value(image, index::TTBR0)?,
        tcr: value(image, index::TCR)?,
        mair: value(image, index::MAIR)?,
        sp: value(image, index::SP)?,
    })
}
