//! The fuzzers' corpus, in the kernel: what BPF_PROG_TEST_RUN makes of every input is what the host makes of it.

use std::collections::BTreeMap;

use protocg_fuzz::case::{Target, case};
use protocg_fuzz::check::pairs;
use protocg_fuzz::corpus;
use protocg_fuzz::dice::Random;
use protocg_fuzz::grammar::Step;
use protocg_peers::harness;

use crate::three::{Kernel, chunks, on_host};

#[test]
fn the_corpus_is_judged_in_the_kernel_as_on_the_host() {
    if harness::skip("oracles_corpus") {
        return;
    }
    let pairs = pairs();
    let mut kernels: BTreeMap<usize, Kernel> = BTreeMap::new();
    for (name, target) in Target::ALL {
        let (mut inputs, mut verdicts, mut held, mut many) = (0, 0, 0, 0);
        for input in corpus::read(target).unwrap() {
            let case = case(target, &input, pairs.len());
            let pair = &pairs[case.policy];
            let client: Vec<u8> = case
                .steps
                .iter()
                .filter_map(|step| if let Step::Client(bytes) = step { Some(bytes.as_slice()) } else { None })
                .collect::<Vec<_>>()
                .concat();
            if client.len() < 14 {
                continue;
            }
            let kernel = kernels.entry(case.policy).or_insert_with(|| Kernel::new(pair));
            let mut random = Random(case.seed);
            let chunks = chunks(&client, &mut random, case.about.clamp(1, 1400));
            let (in_kernel, on_host) = (kernel.judge(&chunks), on_host(pair, &chunks));
            assert_eq!(in_kernel, on_host, "{name}: {input:x?}");
            inputs += 1;
            many += chunks.len();
            verdicts += on_host.0.len();
            held += usize::from(on_host.1.is_some());
        }
        println!("{name}: {inputs} inputs in {many} chunks, {verdicts} verdicts, {held} denied or cut");
        assert!(inputs > 50, "{name} has too few inputs");
    }
}
