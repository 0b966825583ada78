// SPDX-License-Identifier: GPL-2.0-only

//! Translations of the idmap page that collide with those of run time: the problem that the two PGDs and the trampoline
//! were invented for ("It is actually fairly easy to construct a scenario where idmap and runtime pages have colliding
//! translations", Marc Zyngier, dual-step HYP init).

mod common;

use common::{
    assert_caught,
    image,
    without, //
};
use eltwo_model::{
    elf::Image,
    scenario::{
        drive::Leave,
        several::{
            others_first,
            three_cpus, //
        },
        single::there_and_back, //
    },
    world::{
        Change,
        Ground,
        World, //
    },
};

fn run(image: &Image, changes: &[Change]) -> anyhow::Result<()> {
    there_and_back(image, &Ground::default(), changes, Leave::Reset)
}

/// The code as it was before the trampoline: TTBR0_EL2 is written in the idmap page, and nothing is invalidated.
fn single_step(image: &Image) -> Image {
    let image = without(image, "eltwo_init", "add x1, x1, x8", 0);
    let image = without(&image, "eltwo_init", "tlbi alle2", 1);
    without(&image, "eltwo_init", "tlbi alle2", 0)
}

#[test]
fn collision_in_single_step_without_invalidation_is_caught() {
    let image = single_step(&image());
    assert_caught(run(&image, &[Change::Collision]), "TlbConflict");
}

#[test]
fn collision_in_single_step_without_previous_owner_is_caught() {
    // The idmap page alone, with all that was there before properly invalidated.
    let image = without(&image(), "eltwo_init", "add x1, x1, x8", 0);
    let image = without(&image, "eltwo_init", "tlbi alle2", 1);
    assert_caught(run(&image, &[Change::Collision]), "TlbConflict");
}

#[test]
fn collision_with_trampoline_but_without_invalidation_is_caught() {
    let image = without(&image(), "eltwo_init", "tlbi alle2", 1);
    assert_caught(run(&image, &[Change::Collision]), "TlbConflict");
}

/// The trampoline alone is not enough: between the write of TTBR0_EL2 and the TLBI both translations can be in the TLB. So
/// the layout keeps them apart.
#[test]
fn collision_with_trampoline_and_invalidation_is_caught() {
    assert_caught(run(&image(), &[Change::Collision]), "TlbConflict");
}

#[test]
fn single_pgd_for_both_phases_is_caught() {
    assert_caught(run(&image(), &[Change::OnePgd]), "idmap page at run time");
}

#[test]
fn collision_on_three_cpus_in_single_step_without_invalidation_is_caught() {
    let image = single_step(&image());
    let run = others_first(&image, &three_cpus(false), &[Change::Collision]);
    assert_caught(run, "TlbConflict");
}

#[test]
fn collision_on_three_cpus_with_trampoline_but_without_invalidation_is_caught() {
    let image = without(&image(), "eltwo_init", "tlbi alle2", 1);
    let run = others_first(&image, &three_cpus(false), &[Change::Collision]);
    assert_caught(run, "TlbConflict");
}

/// Without a collision, what is missing still shows.
#[test]
fn sequence_on_three_cpus_in_single_step_without_invalidation_is_caught() {
    let image = single_step(&image());
    let run = others_first(&image, &three_cpus(false), &[]);
    assert_caught(run, "TlbConflict");
}

#[test]
fn sequence_on_three_cpus_as_linked_is_clean() {
    others_first(&image(), &three_cpus(false), &[]).unwrap();
}

/// Memory is given to the image just where an image elsewhere has its VA at run time: the layout steps aside, on one CPU
/// as on three.
#[test]
fn collision_that_memory_invites_is_clean() {
    let image = image();
    let mut image_pa = Ground::default().image_pa;
    for seed in 0..8 {
        let first = image_pa & !0x3fff_ffff;
        let ground = Ground {
            image_pa,
            ram: (first, first + 0x7fff_ffff),
            seed,
            ..three_cpus(false)
        };
        for cpus in [1, ground.cpus] {
            let ground = Ground { cpus, ..ground };
            if let Err(error) = others_first(&image, &ground, &[]) {
                panic!("image at {image_pa:#x}, {cpus} CPUs: {error:#}");
            }
        }
        let world = World::new(&image, &ground, &[]).unwrap();
        let layout = &world.prepared.layout;
        assert!(!layout.image().contains(layout.idmap().first()));
        image_pa = layout.image().first().raw();
    }
}

/// The same memory, and a layout that does not step aside: what the two steps and the layout are for.
#[test]
fn collision_that_memory_invites_without_layout_is_caught() {
    let ground = three_cpus(false);
    let world = World::new(&image(), &ground, &[]).unwrap();
    let image_pa = world.prepared.layout.image().first().raw();
    let first = image_pa & !0x3fff_ffff;
    let ground = Ground {
        image_pa,
        ram: (first, first + 0x7fff_ffff),
        ..ground
    };
    let run = others_first(&single_step(&image()), &ground, &[Change::Collision]);
    assert_caught(run, "TlbConflict");
}
