//! Ring 0: what holds of the corpus under libFuzzer holds with the ordinary engine.

use protocg_fuzz::case::Target;
use protocg_fuzz::{Fuzzer, corpus};

#[test]
fn the_corpus_shows_nothing_wrong() {
    let fuzzer = Fuzzer::default();
    for (name, target) in Target::ALL {
        let inputs = corpus::read(target).expect("the corpus can be read");
        for input in &inputs {
            fuzzer.run(target, input);
        }
        println!("{name}: {} inputs", inputs.len());
        assert!(inputs.len() > 50, "{name} has too few inputs");
    }
}
