// SPDX-License-Identifier: GPL-2.0-only

//! Host: what the life cycle of a CPU asks of the CPU that it runs on: hypercalls, ID registers, the register image.
//!
//! When which of these is called is decided in `common::lifecycle`.

use core::sync::atomic::Ordering;

use kernel::prelude::*;

use super::{
    cpu::{
        value,
        Cpu,
        Image, //
    },
    hooks::IrqsOff,
    inject::{
        self,
        CpuStep, //
    },
    mitigation,
    parameter,
    probe,
    service::Service, //
};
use crate::{
    arch::el1,
    common::{
        abi::{
            Call,
            CpuContext,
            Status,
            ABI_VERSION,
            HVC_SOFT_RESTART,
            HVC_STUB_ERR, //
        },
        lifecycle::{
            admission::{
                self,
                Ids,
                Refusal, //
            },
            Comparison,
            Gate,
            Here,
            State,
            Trouble, //
        },
        regs::{
            self,
            index,
            Needs,
            IMAGE, //
        },
    },
    module_parameters,
};

/// The CPU that this runs on, with interrupts off.
pub(crate) struct OnCpu<'a> {
    cpu: &'a Cpu,
    service: &'a Service,
    irqs: &'a IrqsOff,
}

impl<'a> OnCpu<'a> {
    /// `cpu` is the one that this runs on.
    pub(crate) fn new(cpu: &'a Cpu, service: &'a Service, irqs: &'a IrqsOff) -> Self {
        Self { cpu, service, irqs }
    }

    /// Reads one register by way of the kernel's stub, which leaves everything as it is.
    fn read_at_stub(&self, place: usize) -> u64 {
        let entry = self.service.image.entry_read_reg_pa();
        // SAFETY: The stub owns EL2 of this CPU. The page at `entry` has been cleaned to the PoC, reads one register and
        // returns.
        let [x0, ..] = unsafe { el1::hvc([HVC_SOFT_RESTART, entry, place as u64, 0, 0]) };
        x0
    }

    /// Reads every register that exists here. A register that is UNDEFINED, or that traps at EL2 itself, must not be
    /// touched: the stub would return to the same instruction for ever.
    fn read_image(&self) -> Image {
        let mut image = [None; IMAGE.len()];
        for (place, register) in IMAGE.iter().enumerate() {
            let enabled = match register.needs {
                Needs::GicSre => gic_registers_on(&image),
                Needs::Sve => value(&image, index::CPTR) & regs::cptr::TZ == 0,
                Needs::Sme => value(&image, index::CPTR) & regs::cptr::TSM == 0,
                _ => true,
            };
            if enabled && probe::this_cpu_has(register.needs) {
                if let Some(slot) = image.get_mut(place) {
                    *slot = Some(self.read_at_stub(place));
                }
            }
        }
        image
    }
}

/// Whether the system registers of the GIC can be read at EL2.
fn gic_registers_on(image: &Image) -> bool {
    value(image, index::ICC_SRE) & regs::ICC_SRE_EL2_SRE != 0
}

impl Here for OnCpu<'_> {
    fn gate(&self) -> Gate {
        self.service.flags.get()
    }

    fn raise(&self, what: Gate) {
        self.service.flags.raise(what);
    }

    fn break_lock(&self) {
        self.service.pool.shared().lock.break_up();
    }

    fn is_stale(&self) -> bool {
        self.service.stale.load(Ordering::Acquire)
    }

    fn clean(&self) {
        self.service.clean_image();
    }

    fn set_fresh(&self) {
        self.service.stale.store(false, Ordering::Release);
    }

    fn abandon(&self) {
        self.service.pool.abandon();
    }

    fn state(&self) -> State {
        self.cpu.state()
    }

    fn set_state(&self, state: State) {
        self.cpu.set_state(state);
    }

    fn admit(&self) -> Result<(), Trouble> {
        let number = self.cpu.number();
        inject::check_on(CpuStep::Admit, number)?;
        if !probe::this_cpu_has_el2() {
            return Err(Trouble::NoEl2);
        }
        mitigation::admit_this_cpu();
        inject::check_on(CpuStep::Save, number)?;
        // First: with E2H set the other registers mean something else, and what may be read is not known.
        let hcr = inject::fake_hcr(number, self.read_at_stub(index::HCR as usize));
        if hcr & regs::hcr::E2H != 0 {
            return Err(Trouble::Refused(Refusal::E2h));
        }
        let image = self.read_image();
        let mut ids = Ids {
            sctlr: value(&image, index::SCTLR),
            ..probe::this_cpu_ids()
        };
        if gic_registers_on(&image) {
            // SAFETY: The stub owns EL2 of this CPU, and ICC_SRE_EL2.SRE is set.
            ids.ich_vtr = unsafe { probe::ich_vtr() };
        }
        inject::fake_id(number, &mut ids);
        admission::compare(&self.service.machine.chosen, &ids).map_err(Trouble::Refused)?;
        self.cpu.remember(&image, self.irqs);
        self.cpu.set_recorders(probe::this_cpu_records(), self.irqs);
        Ok(())
    }

    fn init(&self) -> Result<(), Trouble> {
        inject::check_on(CpuStep::Init, self.cpu.number())?;
        let context = self.cpu.context();
        // SAFETY: The context is in the kernel's linear map. Init reads `boot` in it with the MMU off; and no line of
        // this page may stay behind in the cache of a CPU that goes away.
        unsafe {
            self.service
                .machine
                .cache
                .clean_to_poc(context.as_ptr().cast(), size_of::<CpuContext>())
        };
        let entry = self.service.image.entry_init_pa();
        let boot = self.cpu.boot_pa().raw();
        // SAFETY: The stub owns EL2. The image and `boot` are complete and cleaned to the PoC, the tables are published.
        let [x0, ..] = unsafe { el1::hvc([HVC_SOFT_RESTART, entry, boot, 0, 0]) };
        if x0 != 0 {
            return Err(Trouble::Answer(x0));
        }
        self.cpu.count_init();
        Ok(())
    }

    fn verify(&self) -> Result<(), Trouble> {
        inject::check_on(CpuStep::Verify, self.cpu.number())?;
        // SAFETY: Init has just made EL2 of this CPU ours.
        let [x0, x1, ..] = unsafe { el1::hvc([Call::Version as u64, 0, 0, 0, 0]) };
        match Status::from_x0(x0) {
            Some(Status::Ok) if x1 == ABI_VERSION => Ok(()),
            Some(Status::Fault) => Err(Trouble::Fault),
            _ => Err(Trouble::Answer(x0)),
        }
    }

    fn reset(&self) -> Result<(), Trouble> {
        // SAFETY: EL2 of this CPU is ours, or the stub's, which does nothing. The call is answered by the stub's exception
        // return.
        let [x0, ..] = unsafe { el1::hvc([Call::Reset as u64, 0, 0, 0, 0]) };
        match Status::from_x0(x0) {
            _ if x0 == 0 => {
                self.cpu.count_reset();
                Ok(())
            }
            _ if x0 == HVC_STUB_ERR => {
                self.cpu.count_reset();
                Err(Trouble::Gone)
            }
            Some(Status::Fault) => Err(Trouble::Fault),
            _ => Err(Trouble::NotReset(x0)),
        }
    }

    fn stub_owns_el2(&self) -> bool {
        probe::stub_owns_el2()
    }

    fn compare(&self, how: Comparison) {
        if parameter::<u8>(module_parameters::selfcheck.value()) == 0 {
            return;
        }
        let (mut equal, mut different) = (0, 0);
        for (place, before) in self.cpu.image_before() {
            let now = self.read_at_stub(place);
            if now == before {
                equal += 1;
            } else {
                self.cpu.keep_difference(place, before, now);
                different += 1;
            }
        }
        // Another CPU may have told of what was found here just now.
        if how == Comparison::Told && self.cpu.tell_differences() == 0 && different == 0 {
            pr_info!(
                "CPU{}: EL2 register image equal ({equal} registers)\n",
                self.cpu.number()
            );
        }
    }
}
