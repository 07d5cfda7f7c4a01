//! libbpf's own messages: kept, so that a refusal can be put in words, and printed with `-v`.

use std::sync::Mutex;

use libbpf_rs::PrintLevel;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Catches libbpf's messages from here on.
pub fn capture() {
    libbpf_rs::set_print(Some((PrintLevel::Info, |level, text| {
        let text = text.trim_end();
        tracing::debug!(target: "libbpf", ?level, "{text}");
        if let Ok(mut lines) = LINES.lock() {
            lines.push(text.to_owned());
        }
    })));
}

/// Takes what was said since the last time.
pub fn take() -> String {
    LINES.lock().map(|mut lines| std::mem::take(&mut *lines).join("\n")).unwrap_or_default()
}

/// The program that the verifier refused, and its last word, if the log has one.
pub fn refusal(log: &str) -> Option<(String, String)> {
    let begin = log.find("-- BEGIN PROG LOAD LOG --")?;
    let program = log.get(..begin)?.rsplit("prog '").next()?.split('\'').next()?.to_owned();
    let body = log.get(begin..)?.lines().skip(1).take_while(|line| !line.contains("-- END PROG LOAD LOG --"));
    let reason = body
        .filter(|line| {
            let line = line.trim();
            !line.is_empty()
                && !line.starts_with("processed ")
                && !line.starts_with("verification time")
                && !line.starts_with("stack depth")
        })
        .last()?;
    Some((program, reason.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_program_and_the_verifiers_last_word() {
        let log = "libbpf: prog 'pg_ingress': BPF program load failed: Permission denied\n\
                   libbpf: prog 'pg_ingress': -- BEGIN PROG LOAD LOG --\n0: R1=ctx() R10=fp0\n\
                   R2 min value is negative\nprocessed 3 insns (limit 1000000)\n-- END PROG LOAD LOG --\n\
                   libbpf: failed to load object";
        assert_eq!(refusal(log), Some(("pg_ingress".into(), "R2 min value is negative".into())));
        assert_eq!(refusal("libbpf: nothing of the kind"), None);
    }
}
