// SPDX-License-Identifier: GPL-2.0-only

//! The interpreter on a machine that forgives everything, so that only its own arithmetic and rules are tested.

use std::collections::HashMap;

use super::*;

/// Memory and registers without any hardware around them.
#[derive(Default)]
struct Flat {
    memory: HashMap<u64, u64>,
    registers: HashMap<SysReg, u64>,
    code: Vec<u32>,
    fetched: u64,
    sp: [u64; 2],
}

impl Machine for Flat {
    fn fetch(&mut self, pc: u64) -> Outcome<u32> {
        self.fetched = pc;
        self.peek(0)
    }

    fn peek(&mut self, ahead: u64) -> Outcome<u32> {
        let word = self.code.get((self.fetched + ahead) as usize / 4).copied();
        word.ok_or_else(|| Failure::new("end of code"))
    }

    fn load(&mut self, address: u64) -> Outcome<u64> {
        Ok(self.memory.get(&address).copied().unwrap_or(0))
    }

    fn store(&mut self, address: u64, value: u64) -> Outcome<()> {
        self.memory.insert(address, value);
        Ok(())
    }

    fn mrs(&mut self, reg: SysReg) -> Outcome<u64> {
        Ok(self.registers.get(&reg).copied().unwrap_or(0))
    }

    fn msr(&mut self, reg: SysReg, value: u64) -> Outcome<()> {
        self.registers.insert(reg, value);
        Ok(())
    }

    fn sys(&mut self, _op: SysOp, _operand: u64) -> Outcome<()> {
        Ok(())
    }

    fn dsb(&mut self, _barrier: Barrier) -> Outcome<()> {
        Ok(())
    }

    fn isb(&mut self) -> Outcome<()> {
        Ok(())
    }

    fn dmb(&mut self) -> Outcome<()> {
        Ok(())
    }

    fn hint(&mut self, _hint: Hint) -> Outcome<()> {
        Ok(())
    }

    fn smc(&mut self, _function: u64) -> Outcome<()> {
        Ok(())
    }

    fn mask_serrors(&mut self, _masked: bool) {}

    fn use_fp(&mut self) -> Outcome<()> {
        Ok(())
    }

    fn branch_indirect(&mut self) -> Outcome<()> {
        Ok(())
    }

    fn eret(&mut self, _spsr: u64) -> Outcome<()> {
        Ok(())
    }

    fn sp(&mut self, el2: bool) -> Outcome<u64> {
        Ok(self.sp[usize::from(el2)])
    }

    fn set_sp(&mut self, el2: bool, value: u64) -> Outcome<()> {
        self.sp[usize::from(el2)] = value;
        Ok(())
    }

    fn note(&mut self, _pc: u64, _word: u32) {}
}

/// Runs all of `code`, or up to an ERET.
fn run(core: &mut Core, machine: &mut Flat, code: &[u32]) -> Outcome<Event> {
    machine.code = code.to_vec();
    core.pc = 0;
    while core.pc < code.len() as u64 * 4 {
        let event = core.step(machine)?;
        if event != Event::Next {
            return Ok(event);
        }
    }
    Ok(Event::Next)
}

const ERET: u32 = 0xd69f_03e0;
const DSB_NSH: u32 = 0xd503_379f;
const ISB: u32 = 0xd503_3fdf;
const MSR_SCTLR_X5: u32 = 0xd51c_1005;

#[test]
fn compare_sets_flags_for_unsigned_and_signed_conditions() {
    // cmp x0, #33
    for (x0, lower, equal) in [(0, true, false), (33, false, true), (40, false, false)] {
        let mut core = Core::default();
        core.x[0] = x0;
        run(&mut core, &mut Flat::default(), &[0xf100_841f]).unwrap();
        // lo, eq, and lt, which agrees with lo for small numbers.
        assert_eq!(core.holds(3), lower, "{x0}");
        assert_eq!(core.holds(0), equal, "{x0}");
        assert_eq!(core.holds(11), lower, "{x0}");
    }
}

#[test]
fn stack_pointer_follows_spsel() {
    let mut core = Core::default();
    let mut machine = Flat::default();
    core.enter(0);
    core.x[7] = 0x2000;
    // mov sp, x7; msr spsel, #0; mov sp, x1; mrs x1, spsel
    let code = [0x9100_00ff, 0xd500_40bf, 0x9100_003f, 0xd538_4201];
    core.x[1] = 0x1000;
    run(&mut core, &mut machine, &code).unwrap();
    assert_eq!(machine.sp, [0x1000, 0x2000]);
    assert_eq!(core.x[1], 0);
}

#[test]
fn pair_accesses_two_words_from_sp() {
    let mut core = Core::default();
    let mut machine = Flat {
        sp: [0, 0x100],
        ..Flat::default()
    };
    core.enter(0);
    (core.x[0], core.x[1]) = (7, 8);
    // stp x0, x1, [sp, #16]; ldp x2, x3, [sp, #16]
    run(&mut core, &mut machine, &[0xa901_07e0, 0xa941_0fe2]).unwrap();
    assert_eq!(machine.memory[&0x110], 7);
    assert_eq!(machine.memory[&0x118], 8);
    assert_eq!(core.x[2..4], [7, 8]);
}

#[test]
fn access_with_unaligned_sp_is_caught() {
    let mut machine = Flat {
        sp: [0, 0x108],
        ..Flat::default()
    };
    let mut core = Core::default();
    core.enter(0);
    let failure = run(&mut core, &mut machine, &[0xa901_07e0]).unwrap_err();
    assert!(failure.reason.contains("SP is not aligned"));
}

#[test]
fn exception_return_with_speculation_barrier_passes() {
    let mut machine = Flat::default();
    machine.registers.insert(SysReg::ELR_EL2, 0x4000);
    machine.registers.insert(SysReg::SPSR_EL2, 0x3c5);
    let event = run(&mut Core::default(), &mut machine, &[ERET, DSB_NSH, ISB]).unwrap();
    let left = Event::Left {
        pc: 0x4000,
        spsr: 0x3c5,
    };
    assert_eq!(event, left);
}

#[test]
fn exception_return_without_speculation_barrier_is_caught() {
    for code in [
        [ERET, insn::NOP, ISB],
        [ERET, DSB_NSH, insn::NOP],
        [ERET, ISB, DSB_NSH],
    ] {
        let failure = run(&mut Core::default(), &mut Flat::default(), &code).unwrap_err();
        assert!(failure.reason.contains("speculation past ERET"));
    }
}

#[test]
fn mmu_off_after_isb_passes() {
    let mut machine = Flat::default();
    machine.registers.insert(SysReg::SCTLR_EL2, 1);
    run(&mut Core::default(), &mut machine, &[ISB, MSR_SCTLR_X5]).unwrap();
    assert_eq!(machine.registers[&SysReg::SCTLR_EL2], 0);
}

#[test]
fn mmu_off_without_isb_is_caught() {
    let mut machine = Flat::default();
    machine.registers.insert(SysReg::SCTLR_EL2, 1);
    let code = [ISB, insn::NOP, MSR_SCTLR_X5];
    let failure = run(&mut Core::default(), &mut machine, &code).unwrap_err();
    assert!(failure.reason.contains("E1041"));
}

#[test]
fn unknown_instruction_is_an_error_with_its_address() {
    // nop; ldxr x0, [x1]
    let code = [insn::NOP, 0xc85f_7c20];
    let failure = run(&mut Core::default(), &mut Flat::default(), &code).unwrap_err();
    assert!(failure.reason.contains("ldxr"), "{failure}");
    assert!(failure.reason.contains("0x4"), "{failure}");
}
