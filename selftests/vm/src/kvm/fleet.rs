// SPDX-License-Identifier: GPL-2.0-only

//! Machines that compute while something happens to them, and whether what they have computed is right.

use std::{
    thread,
    time::Duration, //
};

use anyhow::{
    bail,
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
        Exit,
        Vcpu,
        FAIL_ENTRY, //
    },
};
use crate::guest::cpu::{
    self,
    Pinned, //
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

/// What a vCPU does on a CPU whose EL2 is not the hypervisor's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There must be none.
    Fails,
    /// It goes on on another one, as a VMM would.
    MovesOn,
}

/// A thread that goes from CPU to CPU.
#[derive(Default)]
struct Wanderer {
    place: Option<Pinned>,
    moves: usize,
}

impl Wanderer {
    fn move_on(&mut self) -> Result<()> {
        // The old place is forgotten first: each of them puts back what it has found.
        drop(self.place.take());
        let online = cpu::online()?;
        let at = self.moves % online.len();
        if at == 0 {
            // None of them will have it, so that there is no hurry.
            thread::sleep(Duration::from_millis(1));
        }
        self.moves += 1;
        // Where that CPU has gone offline since, the next one is tried.
        self.place = Pinned::to(online[at]).ok();
        Ok(())
    }
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
        Self::start_with(kvm, size, memory, Refused::Fails)
    }

    /// As [`Self::start`], with a word on CPUs whose EL2 is not the hypervisor's.
    pub fn start_with(
        kvm: &Kvm,
        size: Size,
        memory: impl Fn(usize) -> Result<Ram>,
        refused: Refused,
    ) -> Result<Self> {
        let mut fleet = Self {
            machines: Vec::new(),
            workers: Vec::new(),
            words: size.words,
        };
        for index in 0..size.machines {
            let machine = Machine::with_ram(kvm, memory(size.bytes())?)?;
            for id in 0..size.vcpus {
                fleet
                    .workers
                    .push(worker(&machine, index, id, size, refused)?);
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

fn worker(
    machine: &Machine,
    index: usize,
    id: usize,
    size: Size,
    refused: Refused,
) -> Result<Worker> {
    let mut vcpu = machine.vcpu(id as u64)?;
    let seed = (index * 16 + id + 1) as u64;
    let words = size.words as u64;
    let offset = image::FREE + id as u64 * words * 8;
    let arguments = [BASE + offset, words, 0, seed, size.pause];
    vcpu.start(Program::Compute, &arguments)?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, move |vcpu| compute(vcpu, refused))?;
    Ok(Worker {
        runner,
        channel,
        offset,
        seed,
        machine: index,
    })
}

/// Runs a vCPU until its program ends.
fn compute(vcpu: &mut Vcpu, refused: Refused) -> Result<u64> {
    let mut wanderer = Wanderer::default();
    loop {
        match vcpu.run() {
            Exit::Done(result) => return Ok(result),
            Exit::Interrupted => {}
            Exit::Other(FAIL_ENTRY) if refused == Refused::MovesOn => wanderer.move_on()?,
            Exit::Failed(errno) => return Err(errno).context("KVM_RUN"),
            exit => bail!("{}", describe(&exit)),
        }
    }
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
