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
//! All functions that move a CPU run on that CPU with interrupts off ([`IrqsOff`]), so a CPU's state has one writer.

use core::ptr::NonNull;

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
};

use super::{
    hooks::IrqsOff,
    inject::{
        self,
        Step, //
    },
    probe,
    service::Service,
    trouble::Trouble, //
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
            ABI_VERSION,
            HVC_SOFT_RESTART,
            HVC_STUB_ERR,
            RUN_VCPU, //
        },
        addr::PhysAddr,
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
#[repr(u32)]
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
    fn from_number(number: u32) -> State {
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
    state: Atomic<u32>,
    /// It was ours when it went to sleep, and is to be ours when it wakes.
    asleep: Atomic<bool>,
    /// Times that init was completed, and that the way back was.
    inits: Atomic<u64>,
    resets: Atomic<u64>,
    /// The image before the last init, and one bit for each register that exists here.
    before: [Atomic<u64>; IMAGE.len()],
    present: Atomic<u64>,
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
            asleep: Atomic::new(false),
            inits: Atomic::new(0),
            resets: Atomic::new(0),
            before: [const { Atomic::new(0) }; IMAGE.len()],
            present: Atomic::new(0),
            context,
            boot_pa,
        }
    }

    /// Where it is.
    pub(crate) fn state(&self) -> State {
        State::from_number(self.state.load(Relaxed))
    }

    fn set_state(&self, state: State) {
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

    /// From the stub to EL2. If it fails, the stub owns EL2 of this CPU as before.
    pub(crate) fn bring_up(&self, service: &Service, irqs: &IrqsOff) -> Result<(), Trouble> {
        if self.state() == State::Hyp {
            return Ok(());
        }
        self.set_state(State::Boot);
        let result = self.try_bring_up(service, irqs);
        self.set_state(match result {
            Ok(()) => State::Hyp,
            Err(Trouble::Fault) => State::Faulted,
            Err(_) => State::Refused,
        });
        result
    }

    fn try_bring_up(&self, service: &Service, irqs: &IrqsOff) -> Result<(), Trouble> {
        inject::check_on(Step::CpuAdmit, self.number)?;
        probe::admit_this_cpu(&service.machine)?;
        inject::check_on(Step::CpuSave, self.number)?;
        service.clean_if_stale();
        let image = self.read_image(service, irqs);
        if value(&image, index::HCR) & regs::hcr::E2H != 0 {
            return Err(Trouble::E2h);
        }
        if value(&image, index::SCTLR) & regs::sctlr::M != 0 {
            return Err(Trouble::MmuOn);
        }
        let present = self.remember(&image);
        inject::check_on(Step::CpuInit, self.number)?;
        self.enter(service, irqs, saved(&image), present)?;
        self.inits.fetch_add(1, Relaxed);
        let verified = self.verify(irqs);
        match verified {
            Ok(()) => {}
            // The stub owns EL2 already.
            Err(Trouble::Fault) => service.on_fault(),
            // The CPU is at EL2 with us: take it back by the way that always works.
            Err(_) => {
                self.leave(service, irqs)?;
            }
        }
        verified
    }

    /// From EL2 to the stub, with the register image compared. Idempotent.
    pub(crate) fn take_down(&self, service: &Service, irqs: &IrqsOff) -> Result<(), Trouble> {
        self.asleep.store(false, Relaxed);
        if self.state() != State::Hyp {
            return Ok(());
        }
        self.leave(service, irqs)?;
        self.compare(service, irqs);
        Ok(())
    }

    /// As [`Self::take_down`] for a nap that may last microseconds: no comparison.
    pub(crate) fn suspend(&self, service: &Service, irqs: &IrqsOff) {
        if self.state() == State::Hyp && self.leave(service, irqs) == Ok(true) {
            self.asleep.store(true, Relaxed);
        }
    }

    /// Undoes [`Self::suspend`], if there was one.
    pub(crate) fn resume(&self, service: &Service, irqs: &IrqsOff) -> Result<(), Trouble> {
        if self.asleep.xchg(false, Full) {
            self.bring_up(service, irqs)
        } else {
            Ok(())
        }
    }

    /// A call of this CPU's EL2.
    ///
    /// # Errors
    ///
    /// `EBUSY` if EL2 of this CPU is not ours, `EIO` if the call ended in an exception at EL2: then the CPU is at the
    /// stub, with the register image compared.
    pub(crate) fn call(
        &self,
        service: &Service,
        call: u64,
        args: [u64; 4],
        irqs: &IrqsOff,
    ) -> Result<HvcRegs> {
        if self.state() != State::Hyp {
            return Err(EBUSY);
        }
        let [x1, x2, x3, x4] = args;
        // SAFETY: This CPU's EL2 is ours, and interrupts are off.
        let regs = unsafe { el1::hvc([call, x1, x2, x3, x4]) };
        if self.was_handed_back(regs[0]) {
            return Err(EBUSY);
        }
        if Status::from_x0(regs[0]) == Some(Status::Fault) {
            self.on_fault(service, irqs);
            return Err(EIO);
        }
        Ok(regs)
    }

    /// Runs the guest whose context EL2 sees at `hyp_va`.
    ///
    /// # Errors
    ///
    /// `EIO` if it ended in an exception at EL2: then the CPU is at the stub. `EBUSY` if the CPU was found there.
    /// `EFAULT` if the context is not shared.
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

    /// EL2 does not know the context, or no longer.
    #[cold]
    fn admit_guest(&self, service: &Service, status: u64, hyp_va: u64, irqs: &IrqsOff) -> Result {
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
                self.on_fault(service, irqs);
                Err(EIO)
            }
            _ if self.was_handed_back(status) => Err(EBUSY),
            _ => Err(EIO),
        }
    }

    /// An exception at EL2 has ended a call: the stub owns EL2 of this CPU again.
    fn on_fault(&self, service: &Service, irqs: &IrqsOff) {
        self.set_state(State::Faulted);
        service.on_fault();
        self.compare(service, irqs);
    }

    /// Whether `x0` is the answer of the kernel's stub: somebody has made a stub call, upon which EL2 handed this CPU
    /// back. The state follows; the CPU is ours again when it comes online the next time.
    fn was_handed_back(&self, x0: u64) -> bool {
        if x0 != HVC_STUB_ERR {
            return false;
        }
        self.set_state(State::Stub);
        self.resets.fetch_add(1, Relaxed);
        true
    }

    /// Reads register `place` where it is now. The CPU's EL2 is ours.
    pub(crate) fn read_live(&self, service: &Service, place: usize, irqs: &IrqsOff) -> Result<u64> {
        self.call(service, Call::ReadReg as u64, [place as u64, 0, 0, 0], irqs)
            .map(|regs| regs[1])
    }

    /// Reads one register by way of the kernel's stub, which leaves everything as it is.
    fn read_at_stub(&self, service: &Service, place: usize, _irqs: &IrqsOff) -> u64 {
        let entry = service.image.entry_read_reg_pa();
        // SAFETY: The stub owns EL2 of this CPU. The page at `entry` has been cleaned to the PoC, reads one register and
        // returns.
        let [x0, ..] = unsafe { el1::hvc([HVC_SOFT_RESTART, entry, place as u64, 0, 0]) };
        x0
    }

    /// Reads every register that exists here. A register that is UNDEFINED, or that traps at EL2 itself, must not be
    /// touched: the stub would return to the same instruction for ever.
    fn read_image(&self, service: &Service, irqs: &IrqsOff) -> Image {
        let mut image = [None; IMAGE.len()];
        for (place, register) in IMAGE.iter().enumerate() {
            let enabled = match register.needs {
                Needs::GicSre => value(&image, index::ICC_SRE) & regs::ICC_SRE_EL2_SRE != 0,
                Needs::Sve => value(&image, index::CPTR) & regs::cptr::TZ == 0,
                Needs::Sme => value(&image, index::CPTR) & regs::cptr::TSM == 0,
                _ => true,
            };
            if enabled && probe::this_cpu_has(register.needs) {
                if let Some(slot) = image.get_mut(place) {
                    *slot = Some(self.read_at_stub(service, place, irqs));
                }
            }
        }
        image
    }

    /// Keeps the image, and returns which registers are in it.
    fn remember(&self, image: &Image) -> u64 {
        let mut present = 0;
        for (place, (before, now)) in self.before.iter().zip(image).enumerate() {
            if let Some(now) = now {
                before.store(*now, Relaxed);
                present |= 1 << place;
            }
        }
        self.present.store(present, Relaxed);
        present
    }

    /// Init: one HVC, from the stub to the runtime address space.
    fn enter(
        &self,
        service: &Service,
        _irqs: &IrqsOff,
        saved: SavedRegs,
        present: u64,
    ) -> Result<(), Trouble> {
        let context = self.context.as_ptr();
        // SAFETY: The CPU is at the stub, so EL2 does not look at its context, and this is its one writer.
        unsafe {
            (&raw mut (*context).saved).write(saved);
            (&raw mut (*context).present).write(present);
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
        // SAFETY: The stub owns EL2. The image and `boot` are complete and cleaned to the PoC, the tables are published.
        let [x0, ..] = unsafe { el1::hvc([HVC_SOFT_RESTART, entry, self.boot_pa.raw(), 0, 0]) };
        match x0 {
            0 => Ok(()),
            x0 => Err(Trouble::Answer(x0)),
        }
    }

    /// The first call after init.
    fn verify(&self, _irqs: &IrqsOff) -> Result<(), Trouble> {
        inject::check_on(Step::CpuVerify, self.number)?;
        // SAFETY: Init has just made EL2 of this CPU ours.
        let [x0, x1, ..] = unsafe { el1::hvc([Call::Version as u64, 0, 0, 0, 0]) };
        match Status::from_x0(x0) {
            Some(Status::Ok) if x1 == ABI_VERSION => Ok(()),
            Some(Status::Fault) => Err(Trouble::Fault),
            _ => Err(Trouble::Answer(x0)),
        }
    }

    /// Reset: EL2 of this CPU is the stub's again. Returns whether it was ours until now.
    fn leave(&self, service: &Service, _irqs: &IrqsOff) -> Result<bool, Trouble> {
        // SAFETY: EL2 of this CPU is ours. The call is answered by the stub's exception return.
        let [x0, ..] = unsafe { el1::hvc([Call::Reset as u64, 0, 0, 0, 0]) };
        if x0 == 0 {
            self.set_state(State::Stub);
            self.resets.fetch_add(1, Relaxed);
            return Ok(true);
        }
        if self.was_handed_back(x0) {
            return Ok(false);
        }
        self.set_state(State::Faulted);
        service.on_fault();
        if Status::from_x0(x0) == Some(Status::Fault) {
            return Err(Trouble::Fault);
        }
        if !probe::stub_owns_el2() {
            service.pool.abandon();
        }
        Err(Trouble::Answer(x0))
    }

    /// Compares the register image with the one before init. A difference is a bug of ours.
    fn compare(&self, service: &Service, irqs: &IrqsOff) {
        let mut equal = 0;
        let mut different = 0;
        for (place, before) in self.image_before() {
            let now = self.read_at_stub(service, place, irqs);
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

/// The value of the register at `place`; 0 if it does not exist here.
fn value(image: &Image, place: u64) -> u64 {
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
