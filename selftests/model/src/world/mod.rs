// SPDX-License-Identifier: GPL-2.0-only

//! A machine with the kernel and our image on it.
//!
//! The kernel is not interpreted: its stub, and the calls that it makes, are functions here. Everything between an
//! exception to our vectors (or the jump into the idmap page) and the exception return is the image's own code.

mod books;
mod ground;
mod maintain;
mod setup;

use anyhow::Result;
use eltwo::{
    common::{
        abi::{
            HVC_RESET_VECTORS,
            HVC_SET_VECTORS,
            HVC_SOFT_RESTART,
            HVC_STUB_ERR, //
        },
        regs::{
            ESR_EC_HVC64,
            ESR_EC_SHIFT, //
        },
    },
    fake::{
        Access,
        El,
        Reg,
        System,
        Translation, //
    },
};

pub use ground::{
    Change,
    Ground,
    HostStep,
    HOST_STEPS, //
};
pub use setup::Prepared;

use crate::{
    core::{
        Core,
        Event,
        Failure,
        Machine as _,
        Outcome, //
    },
    elf::Image,
    insn::{
        decode,
        Insn, //
    },
    machine::Pe,
    registers,
    sysreg::SysReg, //
};

/// Where the kernel makes its calls: behind the HVC.
pub const HOST_PC: u64 = 0xffff_8000_8012_3454;
/// PSTATE of the kernel: EL1h, DAIF masked, some flags.
pub const HOST_SPSR: u64 = 0x6000_03c5;
/// The kernel's SP_EL0, which is the current task.
pub const HOST_SP_EL0: u64 = 0xffff_0000_1234_5000;
/// Offset of the vector for a synchronous exception from AArch64 EL1 or EL0.
const VECTOR_LOWER_SYNC: u64 = 0x400;
/// Offset of the vector for a synchronous exception from EL2 on SP_EL2.
const VECTOR_HYP_SYNC: u64 = 0x200;
/// Offset of the vector for an SError from EL2 on SP_EL2.
const VECTOR_HYP_SERROR: u64 = 0x380;
/// PSTATE at EL2 on SP_EL2, DAIF masked.
pub const HYP_SPSR: u64 = 0x3c9;
/// ESR_EL2 of an external abort of a data access at EL2, not on a walk.
const ESR_EXTERNAL_ABORT: u64 = (0x25 << 26) | (1 << 25) | 0x10;
/// ESR_EL2 of an SError.
pub const ESR_SERROR: u64 = (0x2f << 26) | (1 << 25) | 0x11;
/// No path takes that many instructions.
const MAX_STEPS: u64 = 2000;

/// How a run at EL2 ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By exception return to the host.
    Host {
        /// Where to.
        pc: u64,
        /// With which PSTATE.
        spsr: u64,
    },
    /// By exception return to a guest.
    Guest {
        /// Where to.
        pc: u64,
        /// With which PSTATE.
        spsr: u64,
    },
    /// At EL2, at an address that the host gave.
    Restarted {
        /// The address.
        pc: u64,
    },
    /// At EL2, at the entry of the Rust dispatcher.
    Rust,
}

/// See the module.
#[derive(Clone)]
pub struct World {
    /// Memory, caches, TLBs, system registers.
    pub system: System,
    /// What the host has prepared.
    pub prepared: Prepared,
    /// The registers of each CPU.
    pub cores: Vec<Core>,
    /// The EL2 registers of each CPU before init.
    pub found: Vec<Vec<registers::Value>>,
    image: Image,
    changes: Vec<Change>,
    /// VBAR_EL2 of the kernel's stub.
    stub: u64,
    /// Offset of the Rust dispatcher in the image.
    rust: u64,
    /// Addresses that SOFT_RESTART was given, beyond the image.
    targets: Vec<u64>,
    /// An SError that becomes possible is taken at once, and not as late as it may be.
    pub eager_serrors: bool,
}

impl World {
    /// A machine where the host has loaded `image`, and EL2 is as [`registers::found`] and a previous owner left it.
    ///
    /// # Errors
    ///
    /// The host could not load it.
    pub fn new(image: &Image, ground: &Ground, changes: &[Change]) -> Result<Self> {
        let mut system = System::new(ground.cpus);
        let found: Vec<_> = (0..ground.cpus)
            .map(|cpu| registers::found(cpu, ground.icache_on))
            .collect();
        for (cpu, found) in found.iter().enumerate() {
            for (reg, value) in found {
                registers::preset(&mut system, cpu, reg, *value)?;
            }
            system.fill_with_previous_owner(cpu);
        }
        let prepared = setup::prepare(&mut system, image, ground, changes)?;
        let stub = system.cpu(0).mrs(Reg::VbarEl2);
        Ok(Self {
            system,
            prepared,
            cores: vec![Core::default(); ground.cpus],
            found,
            image: image.clone(),
            changes: changes.to_vec(),
            stub,
            rust: dispatcher(image)?,
            targets: Vec::new(),
            eager_serrors: false,
        })
    }

    /// The image that runs.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The PA of `offset` in the image.
    pub fn image_pa(&self, offset: u32) -> u64 {
        self.prepared.image_pa + u64::from(offset)
    }

    /// Allows `pc` as the target of a SOFT_RESTART.
    pub fn add_target(&mut self, pc: u64) {
        self.targets.push(pc);
    }

    /// What the host does right before it brings `cpu` in, with the registers that it found.
    ///
    /// # Errors
    ///
    /// A violation.
    pub fn before_init(&mut self, cpu: usize, saved: &[u64; 6]) -> Result<()> {
        maintain::before_init(&mut self.system, &self.prepared, cpu, saved, &self.changes)
    }

    /// Makes `cpu` execute `HVC #0` at EL1 with x0..x4 = `args`, and runs it until EL2 is left.
    ///
    /// # Errors
    ///
    /// A violation.
    pub fn hvc(&mut self, cpu: usize, args: [u64; 5]) -> Outcome<Exit> {
        self.start_hvc(cpu, args)?;
        self.run(cpu)
    }

    /// The same, up to the first instruction at EL2.
    ///
    /// # Errors
    ///
    /// A violation.
    pub fn start_hvc(&mut self, cpu: usize, args: [u64; 5]) -> Outcome<()> {
        let core = &mut self.cores[cpu];
        for (number, (register, value)) in core.x.iter_mut().zip(host_registers()).enumerate() {
            *register = args.get(number).copied().unwrap_or(value);
        }
        self.system
            .note(cpu, &format!("hvc with x0 = {:#x}", args[0]));
        self.from_host(cpu, ESR_EC_HVC64 << ESR_EC_SHIFT, HOST_SPSR)
    }

    /// Takes a synchronous exception from the host.
    ///
    /// # Errors
    ///
    /// A violation.
    pub fn from_host(&mut self, cpu: usize, esr: u64, spsr: u64) -> Outcome<()> {
        self.system.cpu(cpu).msr(Reg::SpEl0, HOST_SP_EL0)?;
        let vectors = self.system.cpu(cpu).hvc()?;
        self.report(cpu, esr, HOST_PC, spsr)?;
        if vectors == self.stub {
            return self.stub(cpu);
        }
        self.cores[cpu].enter(vectors + VECTOR_LOWER_SYNC);
        Ok(())
    }

    /// Takes an exception from EL2 itself, at `pc`, to the vector at `offset`.
    ///
    /// # Errors
    ///
    /// A violation.
    pub fn from_hyp(
        &mut self,
        cpu: usize,
        offset: u64,
        esr: u64,
        pc: u64,
        spsr: u64,
    ) -> Outcome<()> {
        let vectors = self.system.cpu(cpu).exception()?;
        self.report(cpu, esr, pc, spsr)?;
        self.cores[cpu].enter(vectors + offset);
        Ok(())
    }

    /// Takes an exception from the guest to the vector at `offset`.
    ///
    /// # Errors
    ///
    /// A violation.
    pub fn from_guest(&mut self, cpu: usize, offset: u64, esr: u64, at: (u64, u64)) -> Outcome<()> {
        let (pc, spsr) = at;
        let vectors = self.system.cpu(cpu).exception()?;
        self.report(cpu, esr, pc, spsr)?;
        self.cores[cpu].enter(vectors + offset);
        Ok(())
    }

    /// What an exception leaves in the registers.
    fn report(&mut self, cpu: usize, esr: u64, pc: u64, spsr: u64) -> Outcome<()> {
        let mut cpu = self.system.cpu(cpu);
        cpu.msr(Reg::EsrEl2, esr)?;
        cpu.msr(Reg::ElrEl2, pc)?;
        cpu.msr(Reg::SpsrEl2, spsr)?;
        Ok(())
    }

    /// The kernel's stub, behaviour as `arch/arm64/kernel/hyp-stub.S:elx_sync`.
    fn stub(&mut self, cpu: usize) -> Outcome<()> {
        let core = &mut self.cores[cpu];
        core.el2h = true;
        let [x0, x1, x2, x3, x4, ..] = core.x;
        match x0 {
            HVC_SOFT_RESTART => {
                (core.x[0], core.x[1], core.x[2], core.x[4]) = (x2, x3, x4, x1);
                core.pc = x1;
                return Ok(());
            }
            HVC_SET_VECTORS => {
                self.system.cpu(cpu).msr(Reg::VbarEl2, x1)?;
                core.x[0] = 0;
            }
            HVC_RESET_VECTORS => core.x[0] = 0,
            _ => core.x[0] = HVC_STUB_ERR,
        }
        core.pc = HOST_PC;
        self.system.cpu(cpu).eret(El::Host)?;
        Ok(())
    }

    /// Runs `cpu` until it leaves EL2, or gets to where the interpreter has no business.
    ///
    /// # Errors
    ///
    /// A violation.
    pub fn run(&mut self, cpu: usize) -> Outcome<Exit> {
        for _ in 0..MAX_STEPS {
            if let Some(exit) = self.step(cpu)? {
                return Ok(exit);
            }
        }
        Err(self.failure("no end in sight"))
    }

    /// Executes one instruction of `cpu`, if it is not where a run ends.
    ///
    /// # Errors
    ///
    /// A violation.
    pub fn step(&mut self, cpu: usize) -> Outcome<Option<Exit>> {
        if let Some(exit) = self.at_end(cpu) {
            return Ok(Some(exit));
        }
        let before = self.cores[cpu].pc;
        let mut pe = Pe::new(&mut self.system, cpu);
        let event = self.cores[cpu].step(&mut pe);
        let (pa, aborted) = (pe.fetched_pa, pe.aborted);
        let event = event.map_err(|failure| self.explain(failure))?;
        self.check_place(pa)?;
        if aborted {
            self.from_hyp(cpu, VECTOR_HYP_SYNC, ESR_EXTERNAL_ABORT, before, HYP_SPSR)?;
            return Ok(None);
        }
        if event == Event::Next {
            self.check_move(cpu, before)?;
            self.serror(cpu, pa)?;
        }
        Ok(self.at_end(cpu))
    }

    /// An SError is taken behind the instruction at `pa`, if it may be, and must be at an ISB.
    fn serror(&mut self, cpu: usize, pa: u64) -> Outcome<()> {
        let word = self.system.read(pa & !7).unwrap_or(0) >> ((pa & 4) * 8);
        let is_isb = decode(word as u32) == Ok(Insn::Isb);
        if (self.eager_serrors || is_isb) && self.system.cpu(cpu).take_serror() {
            let pc = self.cores[cpu].pc;
            self.from_hyp(cpu, VECTOR_HYP_SERROR, ESR_SERROR, pc, HYP_SPSR)?;
        }
        Ok(())
    }

    fn at_end(&mut self, cpu: usize) -> Option<Exit> {
        let pc = self.cores[cpu].pc;
        let spsr = self.system.cpu(cpu).mrs(Reg::SpsrEl2);
        match self.system.cpu(cpu).el() {
            El::Host => return Some(Exit::Host { pc, spsr }),
            El::Guest => return Some(Exit::Guest { pc, spsr }),
            El::Hyp => {}
        }
        if pc == self.prepared.layout.image().first().raw() + self.rust {
            return Some(Exit::Rust);
        }
        self.targets.contains(&pc).then_some(Exit::Restarted { pc })
    }

    /// Plays the Rust dispatcher, which preserves x19-x28 and clobbers the rest, and returns from it.
    pub fn return_from_rust(&mut self, cpu: usize) {
        let core = &mut self.cores[cpu];
        let link = core.x[30];
        for number in (0..=17).chain(29..=30) {
            core.x[number] = 0xdead_0000_0000_0000 | number as u64;
        }
        core.pc = link;
    }

    /// Code comes from our image only.
    fn check_place(&self, pa: u64) -> Outcome<()> {
        let code = self.prepared.image_pa..self.image_pa(self.image.header().rodata);
        if code.contains(&pa) {
            return Ok(());
        }
        Err(self.failure(&format!("executes at {pa:#x}, which is not our code")))
    }

    /// A step from one page to another under the MMU uses the address space: what was in use before must be gone by then,
    /// or an entry of it can be what the step finds. This is what makes the trampoline break-before-make.
    fn check_move(&mut self, cpu: usize, before: u64) -> Outcome<()> {
        let page = |pc: u64| pc & !(self.prepared.granule.size() - 1);
        let sctlr = self.system.cpu(cpu).mrs(Reg::SctlrEl2);
        if page(before) == page(self.cores[cpu].pc) || sctlr & 1 == 0 {
            return Ok(());
        }
        self.survey(cpu)
    }

    /// Looks at each page that either PGD maps, and at the pages next to it: a TLB may have nothing for it but what the
    /// tables in use say.
    ///
    /// # Errors
    ///
    /// A stale translation can be used.
    pub fn survey(&mut self, cpu: usize) -> Outcome<()> {
        let size = self.prepared.granule.size();
        let layout = self.prepared.layout;
        let regions = [layout.idmap(), layout.trampoline(), layout.image()];
        let slots = (0..layout.cpus())
            .flat_map(|cpu| layout.stack(cpu).into_iter().chain(layout.context(cpu)));
        for range in regions.into_iter().chain(slots) {
            let first = range.first().raw().saturating_sub(size);
            let last = range.last().raw() + size;
            for va in (first..=last).step_by(size as usize) {
                self.system.cpu(cpu).probe(va, Access::Read)?;
            }
        }
        Ok(())
    }

    /// What `cpu` finds at `va`.
    ///
    /// # Errors
    ///
    /// It may find this or that.
    pub fn translate(&mut self, cpu: usize, va: u64) -> Outcome<Translation> {
        Ok(self.system.cpu(cpu).probe(va, Access::Read)?)
    }

    /// A failure with the trace of what led there.
    pub fn failure(&self, reason: &str) -> Failure {
        Failure {
            reason: reason.into(),
            trace: self.system.trace(),
        }
    }

    fn explain(&self, failure: Failure) -> Failure {
        if failure.trace.is_empty() {
            return self.failure(&failure.reason);
        }
        failure
    }

    /// Reads a system register of `cpu`, where it is now.
    ///
    /// # Errors
    ///
    /// There is no such register.
    pub fn register(&mut self, cpu: usize, reg: SysReg) -> Outcome<u64> {
        Pe::new(&mut self.system, cpu).mrs(reg)
    }
}

/// What the kernel has in its registers, each with a value of its own.
pub fn host_registers() -> [u64; 31] {
    std::array::from_fn(|number| 0x1111_0000_0000_0000 | (number as u64 * 0x0101))
}

/// Where the vectors call Rust: the target of the one BL in them.
fn dispatcher(image: &Image) -> Result<u64> {
    let call = image.function("eltwo_call")?.range.clone();
    for offset in call.step_by(4) {
        let insn = image.word(offset).map(decode);
        if let Some(Ok(Insn::Branch {
            offset: to,
            link: true,
        })) = insn
        {
            return Ok(offset.wrapping_add_signed(to));
        }
    }
    anyhow::bail!("eltwo_call calls nothing")
}
