// SPDX-License-Identifier: GPL-2.0-only

//! What the state of every CPU must be.

/// Where a CPU is, as `debugfs/eltwo/cpus` names it while the CPU is online.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The kernel's stub owns its EL2.
    Stub,
    /// Eltwo owns it.
    Hyp,
    /// It has taken an exception at EL2; the stub owns its EL2.
    Faulted,
}

impl State {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            State::Stub => "stub",
            State::Hyp => "hyp",
            State::Faulted => "faulted",
        }
    }
}

/// One CPU.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Is it online?
    pub online: bool,
    /// Where it is.
    pub state: State,
    /// Times that it was brought up.
    pub inits: u64,
    /// Times that it was taken down other than by a fault.
    pub resets: u64,
    /// Exceptions at EL2.
    pub faults: u64,
}

impl Cpu {
    fn new() -> Self {
        Self {
            online: true,
            state: State::Stub,
            inits: 0,
            resets: 0,
            faults: 0,
        }
    }

    fn up(&mut self) {
        self.state = State::Hyp;
        self.inits += 1;
    }

    fn down(&mut self) {
        self.state = State::Stub;
        self.resets += 1;
    }
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Model {
    /// Is the module loaded?
    pub loaded: bool,
    /// Has there been a fault since? Then nothing is brought up any more.
    pub closed: bool,
    /// Is there a guest?
    pub guest: bool,
    /// By number.
    pub cpus: Vec<Cpu>,
    /// CPUs that EL2 has handed back, while nobody has looked since. Who looks compares.
    pub unseen: Vec<usize>,
    /// CPUs whose register image must have been compared, and found equal, since [`Self::start_step`].
    pub compared: Vec<usize>,
}

impl Model {
    /// A machine without the module, all of whose `count` CPUs are online.
    pub fn new(count: usize) -> Self {
        Self {
            loaded: false,
            closed: false,
            guest: false,
            unseen: Vec::new(),
            cpus: vec![Cpu::new(); count],
            compared: Vec::new(),
        }
    }

    /// Forgets what was compared.
    pub fn start_step(&mut self) {
        self.compared.clear();
    }

    /// CPUs that are online and in `state`.
    fn online_in(&self, state: State) -> Vec<usize> {
        let numbered = self.cpus.iter().enumerate();
        numbered
            .filter(|(_, cpu)| cpu.online && cpu.state == state)
            .map(|(number, _)| number)
            .collect()
    }

    fn take_down(&mut self, cpu: usize) {
        if self.cpus[cpu].state == State::Hyp {
            self.cpus[cpu].down();
            self.compared.push(cpu);
        }
    }

    fn bring_up(&mut self, cpu: usize) {
        if self.loaded && !self.closed && self.cpus[cpu].state != State::Hyp {
            self.cpus[cpu].up();
        }
    }

    /// insmod, which succeeds if the module is not loaded.
    pub fn insmod(&mut self) {
        if self.loaded {
            return;
        }
        self.loaded = true;
        self.closed = false;
        for number in 0..self.cpus.len() {
            let cpu = &mut self.cpus[number];
            (cpu.inits, cpu.resets, cpu.faults) = (0, 0, 0);
            cpu.state = State::Stub;
            if cpu.online {
                cpu.up();
            }
        }
    }

    /// Whether rmmod succeeds: not while there is a guest.
    pub fn can_rmmod(&self) -> bool {
        self.loaded && !self.guest
    }

    /// rmmod.
    pub fn rmmod(&mut self) {
        if !self.can_rmmod() {
            return;
        }
        for cpu in self.online_in(State::Hyp) {
            self.take_down(cpu);
        }
        self.loaded = false;
        self.closed = false;
    }

    /// A CPU goes offline.
    pub fn offline(&mut self, cpu: usize) {
        if self.cpus[cpu].online {
            self.take_down(cpu);
            self.cpus[cpu].online = false;
        }
    }

    /// A CPU comes online.
    pub fn online(&mut self, cpu: usize) {
        if !self.cpus[cpu].online {
            self.cpus[cpu].online = true;
            self.bring_up(cpu);
        }
    }

    /// A CPU loses its state for a moment, or almost; it is compared without a word.
    pub fn nap(&mut self, cpu: usize) {
        self.unseen.retain(|unseen| *unseen != cpu);
        if self.cpus[cpu].state == State::Hyp {
            self.cpus[cpu].down();
            self.cpus[cpu].up();
        }
    }

    /// All CPUs but the first go offline, the first one naps, and the others come back.
    pub fn system_nap(&mut self) {
        let others: Vec<usize> = (1..self.cpus.len())
            .filter(|cpu| self.cpus[*cpu].online)
            .collect();
        for &cpu in &others {
            self.offline(cpu);
        }
        self.nap(0);
        for cpu in others {
            self.online(cpu);
        }
    }

    /// A stub call on `cpu` that makes EL2 hand it back.
    pub fn handed_back(&mut self, cpu: usize) {
        if self.cpus[cpu].state == State::Hyp {
            self.cpus[cpu].down();
            self.unseen.push(cpu);
        }
    }

    /// A guest is started, if one can be.
    pub fn start_guest(&mut self) {
        self.guest |= self.loaded && !self.closed;
    }

    /// An exception at EL2 of `cpu`, if that is ours.
    pub fn fault(&mut self, cpu: usize) {
        if self.cpus[cpu].state != State::Hyp {
            return;
        }
        self.closed = true;
        self.cpus[cpu].state = State::Faulted;
        self.cpus[cpu].faults += 1;
        self.compared.push(cpu);
        for other in self.online_in(State::Hyp) {
            self.take_down(other);
        }
    }
}
