// SPDX-License-Identifier: GPL-2.0-only

//! A virtual CPU that runs programs of the image.

use std::{
    mem::offset_of,
    sync::Arc, //
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::{
    VcpuExit,
    VcpuFd, //
};
use nix::errno::Errno;

use super::{
    image::{
        self,
        Mailbox,
        Program, //
    },
    machine,
    ram::Ram,
    reg, //
};

/// PSTATE of a vCPU after reset: EL1h, all exceptions masked.
pub const RESET_PSTATE: u64 = 0x3c5;

/// KVM_EXIT_FAIL_ENTRY, in [`Exit::Other`]: EL2 of the CPU is not the hypervisor's.
pub const FAIL_ENTRY: u32 = 9;

/// Why a vCPU came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The program has ended with this result.
    Done(u64),
    /// It reports a value.
    Report(u64),
    /// It has taken an exception that it did not ask for, with this ESR_EL1.
    Fault(u64),
    /// It reads this many bytes of an MMIO address. They are zero unless the caller has said otherwise.
    Read(u64, usize),
    /// It writes these bytes to an MMIO address.
    Write(u64, Vec<u8>),
    /// It printed.
    Printed,
    /// KVM_EXIT_SYSTEM_EVENT: type and data.
    SystemEvent(u32, Vec<u64>),
    /// KVM_RUN was interrupted (EINTR).
    Interrupted,
    /// KVM_RUN failed.
    Failed(Errno),
    /// Another exit, with its number.
    Other(u32),
}

/// Where a vCPU's mailbox is, for those who do not have the vCPU.
#[derive(Clone, Debug)]
pub struct Channel {
    ram: Arc<Ram>,
    offset: u64,
}

impl Channel {
    fn field(&self, offset: usize) -> u64 {
        self.offset + offset as u64
    }

    /// How far the program is.
    pub fn progress(&self) -> u64 {
        self.ram.get(self.field(offset_of!(Mailbox, progress)))
    }

    /// Asks the program to end.
    pub fn stop(&self) {
        self.ram.set(self.field(offset_of!(Mailbox, stop)), 1);
    }

    /// Guest physical address of the mailbox.
    pub fn gpa(&self) -> u64 {
        machine::BASE + self.offset
    }

    /// What the program has left in `results`.
    pub fn results(&self) -> [u64; 4] {
        let first = self.field(offset_of!(Mailbox, results));
        [0, 8, 16, 24].map(|offset| self.ram.get(first + offset))
    }

    /// Number of exceptions taken, and ESR_EL1 of the last one.
    pub fn exceptions(&self) -> (u64, u64) {
        (
            self.ram.get(self.field(offset_of!(Mailbox, taken))),
            self.ram.get(self.field(offset_of!(Mailbox, esr))),
        )
    }

    /// Fills in program and arguments, and clears everything else.
    pub fn prepare(&self, program: Program, arguments: &[u64]) {
        for offset in (0..image::MAILBOX_STRIDE).step_by(8) {
            self.ram.set(self.offset + offset, 0);
        }
        self.ram.set(
            self.field(offset_of!(Mailbox, program)),
            machine::BASE + program.offset(),
        );
        let first = self.field(offset_of!(Mailbox, arguments));
        for (argument, offset) in arguments.iter().zip((first..).step_by(8)) {
            self.ram.set(offset, *argument);
        }
    }
}

/// A vCPU and its mailbox.
pub struct Vcpu {
    /// The vCPU.
    pub fd: VcpuFd,
    /// What it has printed.
    pub text: String,
    /// Number of times that KVM_RUN returned.
    pub exits: u64,
    channel: Channel,
}

impl Vcpu {
    /// Takes the vCPU `fd` with the number `id`, whose machine has its image in `ram`.
    pub fn new(fd: VcpuFd, ram: Arc<Ram>, id: u64) -> Result<Self> {
        ensure!(id < machine::MAILBOXES, "vCPU {id} has no mailbox");
        let channel = Channel {
            ram,
            offset: image::MAILBOXES + id * image::MAILBOX_STRIDE,
        };
        Ok(Self {
            fd,
            text: String::new(),
            exits: 0,
            channel,
        })
    }

    /// The mailbox.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Sets the vCPU to the start of `program`, as after a reset.
    pub fn start(&mut self, program: Program, arguments: &[u64]) -> Result<()> {
        self.channel.prepare(program, arguments);
        self.set(reg::system(3, 0, 1, 0, 0), RESET_SCTLR)?;
        self.set(reg::x(0), self.channel.gpa())?;
        self.set(reg::PC, machine::BASE + image::boot_offset())?;
        self.set(reg::PSTATE, RESET_PSTATE)
    }

    /// Reads a register of 8 bytes.
    pub fn get(&self, id: u64) -> Result<u64> {
        let mut value = [0; 8];
        self.fd
            .get_one_reg(id, &mut value)
            .with_context(|| format!("KVM_GET_ONE_REG {id:#x}"))?;
        Ok(u64::from_le_bytes(value))
    }

    /// Writes a register of 8 bytes.
    pub fn set(&self, id: u64, value: u64) -> Result<()> {
        self.fd
            .set_one_reg(id, &value.to_le_bytes())
            .with_context(|| format!("KVM_SET_ONE_REG {id:#x} to {value:#x}"))?;
        Ok(())
    }

    /// Enters the guest once. MMIO reads get zeroes.
    pub fn run(&mut self) -> Exit {
        self.run_with(|_, _| {})
    }

    /// Enters the guest once. `read` answers MMIO reads.
    pub fn run_with(&mut self, mut read: impl FnMut(u64, &mut [u8])) -> Exit {
        let result = self.fd.run();
        self.exits += 1;
        match result {
            Ok(VcpuExit::MmioRead(address, data)) => {
                data.fill(0);
                read(address, data);
                Exit::Read(address, data.len())
            }
            Ok(VcpuExit::MmioWrite(address, data)) => written(&mut self.text, address, data),
            Ok(VcpuExit::SystemEvent(kind, data)) => Exit::SystemEvent(kind, data.to_vec()),
            Ok(VcpuExit::Intr) => Exit::Interrupted,
            Ok(_) => Exit::Other(self.fd.get_kvm_run().exit_reason),
            Err(error) => match Errno::from_raw(error.errno()) {
                Errno::EINTR => Exit::Interrupted,
                errno => Exit::Failed(errno),
            },
        }
    }

    /// Runs the program to its end, which nothing but its text may delay. Returns its result.
    pub fn finish(&mut self) -> Result<u64> {
        loop {
            match self.run() {
                Exit::Done(result) => return Ok(result),
                Exit::Printed => {}
                exit => bail!("{} at PC {:#x}", describe(&exit), self.get(reg::PC)?),
            }
        }
    }

    /// Runs `program` from its start to its end.
    pub fn call(&mut self, program: Program, arguments: &[u64]) -> Result<u64> {
        self.start(program, arguments)?;
        self.finish().with_context(|| format!("{program:?}"))
    }
}

/// SCTLR_EL1 with nothing switched on: the bits that are RES1 without extensions.
const RESET_SCTLR: u64 = 0x30d0_0800;

/// What a write to an MMIO address means.
fn written(text: &mut String, address: u64, data: &[u8]) -> Exit {
    let mut word = [0; 8];
    word[..data.len()].copy_from_slice(data);
    let value = u64::from_le_bytes(word);
    match (address.wrapping_sub(image::MMIO), data) {
        (image::CONSOLE, [byte]) => {
            text.push(char::from(*byte));
            Exit::Printed
        }
        (image::REPORT, [_, _, _, _, _, _, _, _]) => Exit::Report(value),
        (image::DONE, [_, _, _, _, _, _, _, _]) => Exit::Done(value),
        (image::FAULT, [_, _, _, _, _, _, _, _]) => Exit::Fault(value),
        _ => Exit::Write(address, data.to_vec()),
    }
}

/// An exit in words, for messages.
pub fn describe(exit: &Exit) -> String {
    match exit {
        Exit::Fault(esr) => format!(
            "the guest took an exception of class {:#x} (ESR_EL1 {esr:#x})",
            (esr >> 26) & 0x3f
        ),
        exit => format!("{exit:x?}"),
    }
}
