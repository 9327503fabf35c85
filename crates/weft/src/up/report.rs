//! What is told of the tour: a line a step, and the sum.

use anyhow::Result;

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    /// A step that was gone: what it saw, or what was wrong.
    pub(crate) fn line(&mut self, expectation: &str, outcome: Result<String>) {
        self.steps += 1;
        match outcome {
            Ok(seen) => println!("ok      {expectation}: {seen}"),
            Err(error) => {
                self.failed += 1;
                println!("FAILED  {expectation}: {}", format!("{error:#}").replace('\n', " "));
            }
        }
    }

    /// A step that this machine has not what it needs for.
    pub(crate) fn skip(&mut self, expectation: &str, why: &str) {
        self.steps += 1;
        self.skipped += 1;
        println!("skipped {expectation}: {}", why.replace('\n', " "));
    }

    /// The sum; whether nothing failed.
    pub(crate) fn end(self) -> bool {
        println!("\n{}", self.sum());
        self.failed == 0
    }

    fn sum(&self) -> String {
        let Self { steps, failed, skipped } = self;
        match (failed, skipped) {
            (0, 0) => format!("all {steps} steps of the tour held"),
            (0, _) => format!("{} of {steps} steps of the tour held, {skipped} skipped", steps - skipped),
            (_, 0) => format!("{failed} of {steps} steps of the tour FAILED"),
            (_, _) => format!("{failed} of {steps} steps of the tour FAILED, {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_tells_what_failed_and_what_was_skipped() {
        let mut report = Report::default();
        let sum = |report: &Report| report.sum();
        report.line("a", Ok("seen".to_owned()));
        assert_eq!(sum(&report), "all 1 steps of the tour held");
        report.skip("b", "there is no b");
        assert_eq!(sum(&report), "1 of 2 steps of the tour held, 1 skipped");
        report.line("c", Err(anyhow::anyhow!("wrong")));
        assert_eq!(sum(&report), "1 of 3 steps of the tour FAILED, 1 skipped");
        assert!(!report.end());
    }
}
