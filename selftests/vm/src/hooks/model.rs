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
    /// CPUs that EL2 has handed back, while nobody has looked since. Who notices compares.
    pub unseen: Vec<usize>,
    /// CPUs that have napped while unseen: they were compared then, without a word unless somebody had noticed before.
    pub napped: Vec<usize>,
    /// CPUs whose register image must have been compared, and found equal, since the log was last looked at.
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
            napped: Vec::new(),
            cpus: vec![Cpu::new(); count],
            compared: Vec::new(),
        }
    }

    /// CPUs that are online.
    pub fn online_cpus(&self) -> Vec<usize> {
        (0..self.cpus.len())
            .filter(|cpu| self.cpus[*cpu].online)
            .collect()
    }

    /// CPUs that are online and in `state`.
    pub fn online_in(&self, state: State) -> Vec<usize> {
        let numbered = self.cpus.iter().enumerate();
        numbered
            .filter(|(_, cpu)| cpu.online && cpu.state == state)
            .map(|(number, _)| number)
            .collect()
    }

    fn take_down(&mut self, cpu: usize) {
        let ours = self.cpus[cpu].state == State::Hyp;
        if ours {
            self.cpus[cpu].down();
        }
        if ours || self.see(cpu) {
            self.compared.push(cpu);
        }
    }

    /// Whether `cpu` was unseen. It no longer is.
    fn see(&mut self, cpu: usize) -> bool {
        let place = self.unseen.iter().position(|unseen| *unseen == cpu);
        place.map(|place| self.unseen.remove(place)).is_some()
    }

    /// Somebody looks at every CPU: what was unseen must have been compared.
    pub fn see_all(&mut self) {
        self.compared.append(&mut self.unseen);
    }

    /// Whether a comparison of `cpu` is no surprise, though it need not have been.
    pub fn may_be_compared(&self, cpu: usize) -> bool {
        self.unseen.contains(&cpu) || self.napped.contains(&cpu)
    }

    /// The log was read, with comparisons of the CPUs that `is_compared` says.
    pub fn note_compared(&mut self, is_compared: impl Fn(usize) -> bool) {
        self.unseen.retain(|cpu| !is_compared(*cpu));
        self.napped.clear();
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
        for cpu in self.online_cpus() {
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
        if self.see(cpu) {
            self.napped.push(cpu);
        }
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
        for other in self.online_cpus() {
            self.take_down(other);
        }
    }
}
