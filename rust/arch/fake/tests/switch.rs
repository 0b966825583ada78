// SPDX-License-Identifier: GPL-2.0-only

//! Pairs for the switch of address spaces: init, reset, and the collisions that the trampoline is there to prevent.
//!
//! The sequences are those of `asm/idmap.S`, written down once more, so that the rules can be tested without a linked
//! image. Each instruction is fetched from where it stands before it is executed.

use super::super::{
    Checked,
    Cpu,
    Domain,
    El,
    Kind,
    Machine,
    Reg,
    Rule,
    Tlbi, //
};
use crate::common::{
    addr::{
        AddrRange,
        Granule,
        HypVa,
        PhysAddr, //
    },
    pgtable::{
        Blocks,
        Env,
        Geometry,
        HypAccess,
        HypAttrs,
        NotLive,
        Output,
        PageTable,
        Stage1, //
    },
    regs::{
        sctlr,
        tcr, //
    },
};

/// The page that boot and runtime share.
const IDMAP: u64 = 0x8000_0000;
/// What init reads with the MMU off.
const PARAMS: u64 = 0x8000_1000;
/// Runtime text.
const TEXT: u64 = 0x8000_2000;
/// A page that is neither.
const OTHER: u64 = 0x8000_3000;
const TRAMPOLINE: u64 = 0x60_0000_0000;
const TEXT_VA: u64 = 0x50_0000_0000;
const VA_BITS: u32 = 39;
const MAIR: u64 = 0xff | (0x04 << 32);

/// An instruction of the idmap page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    /// LDR of a boot parameter.
    Load(u64),
    Msr(Reg, u64),
    Isb,
    Dsb(Domain, Kind),
    Tlbi(Tlbi),
    IcIallu,
    /// Goes on at the same place in the page, as it is mapped at this address.
    Branch(u64),
    Eret,
}

const DSB_NSH: Code = Code::Dsb(Domain::Nsh, Kind::Full);
const ALLE2: Code = Code::Tlbi(Tlbi::Alle2 { is: false });
const ALLE1: Code = Code::Tlbi(Tlbi::Alle1 { is: false });

/// A system whose host has loaded an image and built tables.
struct Stage {
    machine: Machine,
    boot: u64,
    runtime: u64,
}

/// Where a page is mapped, to what, and whether it is text.
type Place = (u64, u64, bool);

const BOOT: [Place; 2] = [(IDMAP, IDMAP, true), (TRAMPOLINE, IDMAP, true)];
const RUNTIME: [Place; 3] = [
    (TRAMPOLINE, IDMAP, true),
    (TEXT_VA, TEXT, true),
    (TEXT_VA + 0x1000, OTHER, false),
];

fn build(machine: &Machine, places: &[Place]) -> u64 {
    let memory = machine.memory(0);
    let output = Output::new(Granule::K4, 40, false).unwrap();
    let geometry = Geometry::stage1(Granule::K4, VA_BITS, output).unwrap();
    let mut table = PageTable::create(Stage1, geometry, &memory).unwrap();
    let env = Env::new(&memory, &NotLive);
    for (va, pa, text) in places {
        let access = if *text {
            HypAccess::ReadExecute
        } else {
            HypAccess::ReadWrite
        };
        let range = AddrRange::new(HypVa::new(*va).unwrap(), 0x1000).unwrap();
        let attrs = HypAttrs::normal(access);
        let pa = PhysAddr::new(*pa).unwrap();
        table
            .map(&env, range, pa, attrs, Blocks::PagesOnly)
            .unwrap();
    }
    geometry.ttbr(table.root()).unwrap()
}

impl Stage {
    /// What the host does at load. Each CPU has the TLB of a previous owner of EL2.
    fn new(boot: &[Place], runtime: &[Place]) -> Self {
        let machine = Machine::new(2, Granule::K4, 0x4000_0000);
        let boot = build(&machine, boot);
        let runtime = build(&machine, runtime);
        machine.with(|system| {
            for page in [IDMAP, PARAMS, TEXT, OTHER] {
                let words: Vec<u8> = (0..4096u32).map(|byte| byte as u8).collect();
                system.write_host(0, page, &words).unwrap();
                let mut cpu = system.cpu(0);
                for line in (page..page + 4096).step_by(64) {
                    cpu.dc_civac(line).unwrap();
                }
            }
            let mut cpu = system.cpu(0);
            // No IC: that is the business of init, on each CPU.
            cpu.dsb(Domain::Sy, Kind::Full).unwrap();
            for number in 0..2 {
                system.fill_with_previous_owner(number);
            }
        });
        Self {
            machine,
            boot,
            runtime,
        }
    }

    fn tcr(&self) -> u64 {
        tcr::RES1 | (2 << tcr::PS_SHIFT) | tcr::WALKS_WBWA_IS | tcr::TG0_4K | (64 - VA_BITS as u64)
    }

    /// As `eltwo_init`.
    fn init(&self) -> Vec<Code> {
        vec![
            Code::Load(PARAMS),
            Code::Msr(Reg::MairEl2, MAIR),
            Code::Msr(Reg::TcrEl2, self.tcr()),
            Code::Msr(Reg::Ttbr0El2, self.boot),
            ALLE2,
            ALLE1,
            Code::IcIallu,
            DSB_NSH,
            Code::Isb,
            Code::Msr(Reg::SctlrEl2, sctlr::MMU_ON),
            Code::Isb,
            Code::Branch(TRAMPOLINE),
            Code::Msr(Reg::Ttbr0El2, self.runtime),
            Code::Isb,
            ALLE2,
            DSB_NSH,
            Code::Msr(Reg::VbarEl2, TEXT_VA),
            Code::Eret,
        ]
    }

    /// As `eltwo_reset`, with `before` to restore, but without what only other code or an erratum needs: the TLBI in the
    /// trampoline, which makes the switch complete before anything else is used, and the ISB before the MMU goes off.
    fn reset(&self, before: &[(Reg, u64)]) -> Vec<Code> {
        let was = |reg| before.iter().find(|(name, _)| *name == reg).unwrap().1;
        vec![
            Code::Msr(Reg::Ttbr0El2, self.boot),
            Code::Isb,
            Code::Branch(IDMAP),
            Code::Msr(Reg::SctlrEl2, was(Reg::SctlrEl2)),
            Code::Isb,
            Code::Msr(Reg::VbarEl2, was(Reg::VbarEl2)),
            ALLE2,
            DSB_NSH,
            Code::Msr(Reg::Ttbr0El2, was(Reg::Ttbr0El2)),
            Code::Msr(Reg::TcrEl2, was(Reg::TcrEl2)),
            Code::Msr(Reg::MairEl2, was(Reg::MairEl2)),
            Code::Eret,
        ]
    }

    /// Executes `code` on CPU `number`, whose instructions stand in the idmap page as it is mapped at `page`.
    fn run(&self, number: usize, page: u64, code: &[Code]) -> Checked<()> {
        self.machine.with(|system| {
            let mut cpu = system.cpu(number);
            cpu.hvc()?;
            let mut page = page;
            for (place, code) in (0x100u64..).step_by(4).zip(code) {
                let fetched = cpu.fetch(page + place)?;
                if fetched.pa != IDMAP + place {
                    let detail = format!("executed at {:#x}", fetched.pa);
                    cpu.report(Rule::WrongTranslation, detail);
                    break;
                }
                if let Code::Branch(to) = code {
                    page = *to;
                }
                execute(&mut cpu, *code)?;
            }
            Ok(())
        })
    }

    /// Init on CPU `number`, and what must hold then.
    fn enter(&self, number: usize, code: &[Code]) -> Checked<()> {
        self.run(number, IDMAP, code)?;
        self.machine.with(|system| {
            system.el2_tlb_current(number)?;
            system.el1_tlb_clean(number)?;
            let mut cpu = system.cpu(number);
            // The first exception: the vectors are there, and can be executed.
            let vectors = cpu.hvc()?;
            if vectors != TEXT_VA {
                cpu.report(Rule::WrongTranslation, format!("vectors at {vectors:#x}"));
            }
            cpu.fetch(vectors + 0x400)?;
            // What EL2 stores, the host sees.
            cpu.store64(TEXT_VA + 0x1000, 5)?;
            cpu.eret(El::Host)?;
            cpu.load64(OTHER).map(|_| ())
        })
    }

    /// Reset on CPU `number`, and what must hold then.
    fn leave(&self, number: usize, code: &[Code], before: &[(Reg, u64)]) -> Checked<()> {
        self.run(number, TRAMPOLINE, code)?;
        self.machine.with(|system| {
            system.el2_tlb_clean(number)?;
            let mut cpu = system.cpu(number);
            for (reg, value) in before {
                let now = cpu.certain(*reg)?;
                if now != *value {
                    cpu.report(Rule::WrongTranslation, format!("{reg:?} is {now:#x}"));
                }
            }
            // The tables go back to the kernel.
            Ok(())
        })
    }

    fn registers(&self) -> Vec<(Reg, u64)> {
        let regs = [
            Reg::SctlrEl2,
            Reg::VbarEl2,
            Reg::Ttbr0El2,
            Reg::TcrEl2,
            Reg::MairEl2,
        ];
        self.machine.with(|system| {
            let cpu = system.cpu(0);
            regs.iter().map(|reg| (*reg, cpu.mrs(*reg))).collect()
        })
    }

    fn rules(&self) -> Vec<Rule> {
        super::broken(&self.machine)
    }
}

fn execute(cpu: &mut Cpu<'_>, code: Code) -> Checked<()> {
    match code {
        Code::Load(at) => cpu.load64(at).map(|_| ()),
        Code::Msr(reg, value) => cpu.msr(reg, value),
        Code::Isb => cpu.isb(),
        Code::Dsb(domain, kind) => cpu.dsb(domain, kind),
        Code::Tlbi(tlbi) => cpu.tlbi(tlbi),
        Code::IcIallu => cpu.ic_iallu(),
        Code::Branch(_) => Ok(()),
        Code::Eret => cpu.eret(El::Host),
    }
}

/// The code without instruction number `place`.
fn without(code: &[Code], place: usize) -> Vec<Code> {
    let mut code = code.to_vec();
    code.remove(place);
    code
}

#[test]
fn init_good_sequence_passes_on_each_cpu() {
    let stage = Stage::new(&BOOT, &RUNTIME);
    for number in 0..2 {
        stage.enter(number, &stage.init()).unwrap();
    }
    assert_eq!(stage.rules(), []);
}

#[test]
fn reset_good_sequence_passes_on_each_cpu() {
    let stage = Stage::new(&BOOT, &RUNTIME);
    let before = stage.registers();
    for number in 0..2 {
        stage.enter(number, &stage.init()).unwrap();
        stage.leave(number, &stage.reset(&before), &before).unwrap();
    }
    assert_eq!(stage.rules(), []);
}

#[test]
fn init_bad_each_missing_instruction_is_caught() {
    let code = Stage::new(&BOOT, &RUNTIME).init();
    let mut survivors = Vec::new();
    for (place, missing) in code.iter().enumerate() {
        // No maintenance: without them the rest is another program.
        if matches!(missing, Code::Load(_) | Code::Branch(_) | Code::Eret) {
            continue;
        }
        let stage = Stage::new(&BOOT, &RUNTIME);
        let _ = stage.enter(0, &without(&stage.init(), place));
        if stage.rules().is_empty() {
            survivors.push((place, *missing));
        }
    }
    println!("{survivors:?}");
    assert_eq!(survivors, []);
}

#[test]
fn reset_bad_each_missing_instruction_is_caught() {
    let stage = Stage::new(&BOOT, &RUNTIME);
    let code = stage.reset(&stage.registers());
    let mut survivors = Vec::new();
    for (place, missing) in code.iter().enumerate() {
        if matches!(missing, Code::Branch(_) | Code::Eret) {
            continue;
        }
        let stage = Stage::new(&BOOT, &RUNTIME);
        let before = stage.registers();
        stage.enter(0, &stage.init()).unwrap();
        let code = without(&stage.reset(&before), place);
        let _ = stage.leave(0, &code, &before);
        if stage.rules().is_empty() {
            survivors.push((place, *missing));
        }
    }
    println!("{survivors:?}");
    assert_eq!(survivors, []);
}

/// One PGD from the first to the last, and no invalidation: EL2 without a trampoline.
fn single_pgd() -> Vec<Rule> {
    // The runtime tables map another page where the idmap page is.
    let collision = [
        (TRAMPOLINE, IDMAP, true),
        (TEXT_VA, TEXT, true),
        (TEXT_VA + 0x1000, OTHER, false),
        (IDMAP, OTHER, false),
    ];
    let stage = Stage::new(&BOOT, &collision);
    let code: Vec<Code> = stage
        .init()
        .into_iter()
        .enumerate()
        // No TLBI at all once the MMU is on.
        .filter(|(place, code)| *code != ALLE2 || *place < 8)
        .map(|(_, code)| code)
        .collect();
    let _ = stage.enter(0, &code);
    stage.rules()
}

#[test]
fn collision_bad_runtime_page_at_the_address_of_the_idmap_page_is_caught() {
    assert_eq!(single_pgd()[0], Rule::TlbConflict);
}

#[test]
fn collision_good_layout_without_common_addresses_passes() {
    let stage = Stage::new(&BOOT, &RUNTIME);
    stage.enter(0, &stage.init()).unwrap();
    assert_eq!(stage.rules(), []);
}

/// From one runtime PGD to another that maps the text elsewhere, by way of the boot PGD or directly.
fn exchange(by_boot: bool) -> Vec<Rule> {
    let stage = Stage::new(&BOOT, &RUNTIME);
    stage.enter(0, &stage.init()).unwrap();
    let moved = [(TRAMPOLINE, IDMAP, true), (TEXT_VA, OTHER, true)];
    let other = build(&stage.machine, &moved);
    stage.machine.with(|system| {
        let mut cpu = system.cpu(0);
        cpu.dsb(Domain::Ish, Kind::Stores).unwrap();
    });
    let to = |root| {
        [
            Code::Msr(Reg::Ttbr0El2, root),
            Code::Isb,
            ALLE2,
            DSB_NSH,
            Code::Isb,
        ]
    };
    let mut code = Vec::new();
    if by_boot {
        code.extend(to(stage.boot));
    }
    code.extend(to(other));
    let _ = stage.run(0, TRAMPOLINE, &code);
    let _ = stage.machine.with(|system| system.el2_tlb_current(0));
    stage.rules()
}

#[test]
fn exchange_good_by_way_of_the_boot_pgd_passes() {
    assert_eq!(exchange(true), []);
}

#[test]
fn exchange_bad_from_runtime_to_runtime_is_caught() {
    assert_eq!(exchange(false)[0], Rule::TlbConflict);
}

/// Walks that are not cacheable see only what was cleaned to the PoC.
fn walks(cacheable: bool, cleaned: bool) -> Vec<Rule> {
    let stage = Stage::new(&BOOT, &RUNTIME);
    if cleaned {
        stage.machine.with(|system| {
            let mut cpu = system.cpu(0);
            for line in (0x4000_0000..0x4001_0000u64).step_by(64) {
                cpu.dc_civac(line).unwrap();
            }
            cpu.dsb(Domain::Sy, Kind::Full).unwrap();
        });
    }
    let mut code = stage.init();
    if !cacheable {
        code[2] = Code::Msr(Reg::TcrEl2, stage.tcr() & !tcr::WALKS_WBWA_IS);
    }
    let _ = stage.enter(0, &code);
    stage.rules()
}

#[test]
fn walks_good_cacheable_ones_need_no_clean() {
    assert_eq!(walks(true, false), []);
}

#[test]
fn walks_good_others_pass_after_a_clean() {
    assert_eq!(walks(false, true), []);
}

#[test]
fn walks_bad_others_without_a_clean_are_caught() {
    assert!(!walks(false, false).is_empty());
}
