// SPDX-License-Identifier: GPL-2.0-only

//! The host's own sequences (`common::upkeep`), each in a scene that needs all of it.

use super::{
    super::{
        Checked,
        Domain,
        El,
        Injector,
        Kind,
        Machine,
        Port,
        Reg,
        Rule,
        System, //
    },
    HOST_PORT,
};
use crate::common::{
    addr::Granule,
    pgtable::tlb::{
        GuestTlb,
        Stage2Regs,
        TlbFeatures, //
    },
    upkeep::{
        self,
        CacheGeometry, //
    },
};

/// A sequence in a scene: what it does with a fault, and whether something else went wrong.
pub(super) struct Act {
    /// The sequence.
    pub(super) name: &'static str,
    /// What turns it into instructions.
    pub(super) port: &'static str,
    pub(super) play: fn(&Machine, &Injector) -> Checked<()>,
}

impl Act {
    /// The rule that is broken first.
    pub(super) fn play(&self, injector: &Injector) -> Option<Rule> {
        let machine = Machine::new(2, Granule::K4, TABLES);
        injector.begin(self.name);
        // What breaks a rule is recorded in the system, too.
        let broken = (self.play)(&machine, injector)
            .err()
            .map(|violation| violation.rule);
        machine
            .with(|system| system.violations().first().map(|first| first.rule))
            .or(broken)
    }
}

pub(super) const ACTS: [Act; 11] = [
    Act {
        name: "clean_to_poc",
        port: HOST_PORT,
        play: |machine, injector| caches_off(machine, injector, false),
    },
    Act {
        name: "clean_to_poc",
        port: HOST_PORT,
        play: |machine, injector| caches_off(machine, injector, true),
    },
    Act {
        name: "publish_tables",
        port: HOST_PORT,
        play: published,
    },
    Act {
        name: "order_stores",
        port: HOST_PORT,
        play: |machine, injector| unmap_and_enter(machine, injector, 0),
    },
    Act {
        name: "order_stores",
        port: HOST_PORT,
        play: |machine, injector| unmap_and_enter(machine, injector, 1),
    },
    Act {
        name: "invalidate_icache",
        port: HOST_PORT,
        play: new_text,
    },
    Act {
        name: "publish_code",
        port: HOST_PORT,
        play: |machine, injector| code(machine, injector, (VIPT, 256, false)),
    },
    Act {
        name: "publish_code",
        port: HOST_PORT,
        play: |machine, injector| code(machine, injector, (VIPT, 256, true)),
    },
    Act {
        name: "publish_code",
        port: HOST_PORT,
        play: |machine, injector| code(machine, injector, (PIPT, LINES_BY_VA * 64, false)),
    },
    Act {
        name: "publish_code",
        port: HOST_PORT,
        play: |machine, injector| code(machine, injector, (PIPT, LINES_BY_VA * 64 + 64, false)),
    },
    Act {
        name: "take_interrupts",
        port: HOST_PORT,
        play: interrupted,
    },
];

const TABLES: u64 = 0x4000_0000;
/// Memory of a guest.
const RAM: u64 = 0x8000_0000;
/// CTR_EL0 with lines of 64 bytes, in both caches.
const CTR: u64 = (4 << 16) | 4;
/// CTR_EL0.L1Ip.
const VIPT: u64 = 0b10 << 14;
const PIPT: u64 = 0b11 << 14;
/// Lines of instruction caches that are invalidated one by one at most.
const LINES_BY_VA: u64 = 512;
/// Where the id of a VM stands, which has its VMID.
const ID: u64 = 0x5000_0000;
const VMID: u16 = 9;
/// VTCR_EL2: 39 bits of IPA in 4K granules from level 1 on, 40 bits of PA, walks WBWA and Inner Shareable.
const VTCR: u64 = (1 << 31) | (2 << 16) | (3 << 12) | (1 << 10) | (1 << 8) | (1 << 6) | 25;
const VTTBR: u64 = ((VMID as u64) << 48) | TABLES;
/// A block of read-write RAM.
const BLOCK: u64 = RAM | (1 << 10) | (3 << 8) | (3 << 6) | (0xf << 2) | 1;
/// Its descriptor.
const SLOT: u64 = TABLES + (RAM >> 30) * 8;
/// HCR_EL2.VM.
const HCR_VM: u64 = 1;

fn write(system: &mut System, cpu: usize, pa: u64, value: u64) -> Checked<()> {
    system.write_host(cpu, pa, &value.to_le_bytes())
}

/// CPU1 reads with its caches off what CPU0 has written.
fn caches_off(machine: &Machine, injector: &Injector, twice: bool) -> Checked<()> {
    let port = machine.port(0).with(injector);
    if twice {
        machine.with(System::needs_repeated_clean);
    }
    // Lines in even and odd number, and bytes that begin and end within a line.
    for (start, bytes) in [(0, 256), (0x1000, 320), (0x2040, 64), (0x3038, 0x90)] {
        let words = || (RAM + start..RAM + start + bytes).step_by(8);
        machine.with(|system| words().try_for_each(|pa| write(system, 0, pa, pa)))?;
        CacheGeometry::from_ctr(CTR).clean_to_poc(&port, RAM + start, bytes, twice);
        machine.with(|system| {
            let mut reader = system.cpu(1);
            if reader.el() == El::Host {
                reader.hvc()?;
            }
            words().try_for_each(|pa| reader.load64(pa).map(|_| ()))
        })?;
    }
    Ok(())
}

/// An empty stage 2 but for one block, or none.
fn stage2(machine: &Machine, block: u64) -> Checked<()> {
    machine.with(|system| {
        (0..512).try_for_each(|entry| write(system, 0, TABLES + entry * 8, 0))?;
        write(system, 0, SLOT, block)
    })
}

/// `cpu` enters the guest.
fn enter(machine: &Machine, cpu: usize) -> Checked<()> {
    machine.with(|system| {
        let mut cpu = system.cpu(cpu);
        cpu.hvc()?;
        cpu.preset(Reg::VtcrEl2, VTCR)?;
        cpu.preset(Reg::VttbrEl2, VTTBR)?;
        cpu.preset(Reg::HcrEl2, HCR_VM)?;
        cpu.eret(El::Guest)
    })
}

/// CPU0 makes a table that CPU1 walks at once.
fn published(machine: &Machine, injector: &Injector) -> Checked<()> {
    stage2(machine, BLOCK)?;
    upkeep::publish_tables(&machine.port(0).with(injector));
    enter(machine, 1)
}

/// CPU0 unmaps a block and invalidates it under the VMID that the VM has, if it has one. At the same time CPU1 gives the VM its
/// first VMID and enters it. `faulty` is the CPU whose barrier has the faults.
///
/// CPU0's load of the id may be done as early, and CPU1's store of it seen as late, as their barriers allow.
fn unmap_and_enter(machine: &Machine, injector: &Injector, faulty: usize) -> Checked<()> {
    let none = Injector::default();
    let order = |cpu: usize| {
        let faults = if cpu == faulty { injector } else { &none };
        upkeep::order_stores(&machine.port(cpu).with(faults));
    };
    machine.with(|system| write(system, 0, ID, 0))?;
    stage2(machine, BLOCK)?;
    upkeep::order_stores(&machine.port(0));

    machine.with(|system| write(system, 1, ID, VMID.into()))?;
    order(1);
    enter(machine, 1)?;
    machine.with(|system| write(system, 0, SLOT, 0))?;
    order(0);
    let has_id = machine.with(|system| system.is_seen(1, ID) && !system.loads_ahead(0));
    if has_id {
        invalidate(machine)?;
    }
    machine.with(|system| system.cpu(1).probe_guest(RAM, super::super::Access::Read))?;
    Ok(())
}

/// The hypercall that invalidates all of the VM.
fn invalidate(machine: &Machine) -> Checked<()> {
    machine.with(|system| system.cpu(0).hvc())?;
    let tlb: GuestTlb<Port> = GuestTlb {
        port: machine.port(0),
        granule: Granule::K4,
        features: TlbFeatures::default(),
        guest: Stage2Regs {
            vttbr: VTTBR,
            vtcr: VTCR,
        },
        host: Stage2Regs::default(),
        host_tcr: None,
    };
    tlb.invalidate_vm();
    machine.with(|system| system.cpu(0).eret(El::Host))
}

/// CPU0 has written text, on a machine whose data caches need not be cleaned for that; both CPUs execute it.
fn new_text(machine: &Machine, injector: &Injector) -> Checked<()> {
    machine.with(|system| {
        system.has_idc();
        write(system, 0, RAM, 0)
    })?;
    upkeep::invalidate_icache(&machine.port(0).with(injector));
    machine.with(|system| (0..2).try_for_each(|cpu| system.cpu(cpu).fetch(RAM).map(|_| ())))
}

/// CPU0 has written text, which is clean already or not, and which both CPUs execute at other addresses.
fn code(
    machine: &Machine,
    injector: &Injector,
    (policy, bytes, clean): (u64, u64, bool),
) -> Checked<()> {
    let cache = CacheGeometry::from_ctr(CTR | policy);
    let lines = || (RAM..RAM + bytes).step_by(64);
    machine.with(|system| {
        if policy == PIPT {
            system.has_physical_icaches();
        }
        lines().try_for_each(|line| write(system, 0, line, line))
    })?;
    if clean {
        cache.clean_to_poc(&machine.port(0), RAM, bytes, false);
    }
    let code = upkeep::Code {
        start: RAM,
        bytes,
        clean,
        twice: false,
    };
    let mut result = Ok(());
    cache.publish_code(&machine.port(0).with(injector), code, || {
        assert!(bytes <= LINES_BY_VA * 64, "{bytes} bytes, line by line");
        result = machine.with(|system| by_va(system, lines()));
    });
    result?;
    machine.with(|system| {
        let mut places = (0..2).flat_map(|cpu| lines().map(move |line| (cpu, line)));
        places.try_for_each(|(cpu, line)| system.cpu(cpu).fetch(line).map(|_| ()))
    })
}

/// What Linux does by VA. It is no sequence of ours, and has no faults.
fn by_va(system: &mut System, mut lines: impl Iterator<Item = u64> + Clone) -> Checked<()> {
    let mut cpu = system.cpu(0);
    lines.clone().try_for_each(|line| cpu.dc_cvau(line))?;
    cpu.dsb(Domain::Ish, Kind::Full)?;
    lines.try_for_each(|line| cpu.ic_ivau(line))?;
    cpu.dsb(Domain::Ish, Kind::Full)?;
    cpu.isb()
}

/// An interrupt is pending when CPU0 opens a window for it.
fn interrupted(machine: &Machine, injector: &Injector) -> Checked<()> {
    machine.with(|system| {
        system.cpu(0).pend_interrupt();
        system.cpu(0).mask_interrupts(false);
    });
    upkeep::take_interrupts(&machine.port(0).with(injector));
    machine.with(|system| {
        system.cpu(0).mask_interrupts(true);
        system.cpu(0).check_interrupt()
    })
}
