// SPDX-License-Identifier: GPL-2.0-only

//! Machines that compute while something happens to them, and whether what they have computed is right.

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;

use super::{
    compute::Compute,
    image::{
        self,
        Program, //
    },
    machine::{
        Machine,
        BASE,
        CHUNK, //
    },
    ram::Ram,
    runner::Runner,
    vcpu::{
        describe,
        Channel,
        Exit, //
    },
};

/// Rounds that each vCPU must have done at least: as many before what happens to it as after.
const LEAST_ROUNDS: u64 = 2;

/// A vCPU that computes.
struct Worker {
    runner: Runner<u64>,
    channel: Channel,
    /// Offset of its words in the memory of the machine.
    offset: u64,
    seed: u64,
    machine: usize,
}

/// Machines whose vCPUs all compute.
pub struct Fleet {
    /// The machines.
    pub machines: Vec<Machine>,
    workers: Vec<Worker>,
    words: usize,
}

/// How large the work is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Number of machines.
    pub machines: usize,
    /// vCPUs of each.
    pub vcpus: usize,
    /// Words that each vCPU computes with.
    pub words: usize,
    /// Steps that each vCPU does nothing after a round. All that it computes has to be computed again by the host.
    pub pause: u64,
}

impl Size {
    /// Bytes of memory that a machine needs.
    pub fn bytes(&self) -> usize {
        (image::FREE as usize + self.vcpus * self.words * 8).next_multiple_of(CHUNK)
    }
}

impl Fleet {
    /// Starts the machines; `memory` makes the memory of each.
    pub fn start(kvm: &Kvm, size: Size, memory: impl Fn(usize) -> Result<Ram>) -> Result<Self> {
        let mut fleet = Self {
            machines: Vec::new(),
            workers: Vec::new(),
            words: size.words,
        };
        for index in 0..size.machines {
            let machine = Machine::with_ram(kvm, memory(size.bytes())?)?;
            for id in 0..size.vcpus {
                fleet.workers.push(worker(&machine, index, id, size)?);
            }
            fleet.machines.push(machine);
        }
        fleet.advance(LEAST_ROUNDS)?;
        Ok(fleet)
    }

    /// The numbers of the threads. To be asked once.
    pub fn threads(&self) -> Result<Vec<nix::unistd::Pid>> {
        self.workers
            .iter()
            .map(|worker| worker.runner.thread_id())
            .collect()
    }

    /// Waits until every vCPU has done `rounds` more rounds.
    pub fn advance(&self, rounds: u64) -> Result<()> {
        let now: Vec<u64> = self.workers.iter().map(|w| w.channel.progress()).collect();
        for (worker, before) in self.workers.iter().zip(now) {
            let wanted = before + rounds;
            super::poll(|| worker.runner.is_finished() || worker.channel.progress() >= wanted)
                .with_context(|| format!("waiting for round {wanted}"))?;
        }
        Ok(())
    }

    /// Lets every vCPU do a few more rounds, stops it, and checks its result and its memory. Returns all rounds.
    pub fn finish(self) -> Result<u64> {
        self.advance(LEAST_ROUNDS)?;
        for worker in &self.workers {
            worker.channel.stop();
        }
        let mut total = 0;
        for (number, worker) in self.workers.into_iter().enumerate() {
            let (_, result) = worker.runner.join()?;
            let rounds = worker.channel.progress();
            let mut expected = Compute::new(self.words, worker.seed);
            expected.rounds(rounds);
            ensure!(
                result == expected.result(),
                "vCPU {number}: {result:#x} after {rounds} rounds, expected {:#x}",
                expected.result()
            );
            let ram = &self.machines[worker.machine].ram;
            for (word, offset) in expected.words.iter().zip((worker.offset..).step_by(8)) {
                ensure!(
                    ram.get(offset) == *word,
                    "vCPU {number}: {:#x} at {offset:#x} after {rounds} rounds, expected {word:#x}",
                    ram.get(offset)
                );
            }
            total += rounds;
        }
        Ok(total)
    }
}

fn worker(machine: &Machine, index: usize, id: usize, size: Size) -> Result<Worker> {
    let mut vcpu = machine.vcpu(id as u64)?;
    let seed = (index * 16 + id + 1) as u64;
    let words = size.words as u64;
    let offset = image::FREE + id as u64 * words * 8;
    let arguments = [BASE + offset, words, 0, seed, size.pause];
    vcpu.start(Program::Compute, &arguments)?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, |vcpu| loop {
        match vcpu.run() {
            Exit::Done(result) => return Ok(result),
            Exit::Interrupted => {}
            exit => anyhow::bail!("{}", describe(&exit)),
        }
    })?;
    Ok(Worker {
        runner,
        channel,
        offset,
        seed,
        machine: index,
    })
}

/// Lets a fleet work while `trouble` goes on, which gets it; then checks its results.
pub fn compute_while(
    kvm: &Kvm,
    size: Size,
    memory: impl Fn(usize) -> Result<Ram>,
    trouble: impl FnOnce(&Fleet) -> Result<()>,
) -> Result<u64> {
    let fleet = Fleet::start(kvm, size, memory)?;
    let result = trouble(&fleet);
    // Whatever has happened, the threads must end.
    let rounds = fleet.finish();
    result?;
    rounds
}
