//! Processes: what they work under, what they run, what strikes them, and all that ends with them.

use fencepost_core::worker::{RunKey, WorkerEvent};
use fencepost_model::history::{Link, Process};

use super::super::data::Lane;
use super::super::words;
use super::{Builder, place};

impl Builder {
    pub(super) fn told(&mut self, process: Process, event: &WorkerEvent) {
        match event {
            WorkerEvent::LeaseTaken(lease) => {
                self.lease_over(process);
                let owner = self.owner(*lease);
                if let Some(known) = self.processes.get_mut(&process) {
                    known.owner = owner.map(|owner| (owner, self.now));
                }
                self.at_process(process, "has", format!("has lease {lease} and may claim"));
            }
            WorkerEvent::LeaseEnded(lease) => {
                self.at_process(process, "learns", format!("learns that its lease {lease} is dead"));
                self.lease_over(process);
            }
            WorkerEvent::Lapsed(lease) => {
                let text = format!("its licence under {lease} runs out: it cancels its rows and starts none");
                self.at_process(process, "lapse", text);
            }
            WorkerEvent::Fenced(key) => {
                let text = format!("learns that row {} of {} was fenced", key.line, key.batch);
                self.of_run(process, *key, "learns-fenced", text);
            }
            _ => {}
        }
    }

    fn lease_over(&mut self, process: Process) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        if let Some((owner, since)) = known.owner.take() {
            let (lane, owned) = (known.lane, &self.out.owners[owner]);
            let words = [owned.label.clone(), format!("works under lease {}", owned.lease)];
            self.bar(lane, "leased", since, Some(owner), 0, [&words[0], &words[1]]);
        }
    }

    pub(super) fn pause_over(&mut self, process: Process) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        if let Some(since) = known.paused.take() {
            let (lane, took) = (known.lane, words::duration(self.now - since));
            self.bar(lane, "paused", since, None, 0, ["stands still", &format!("stands still for {took}")]);
        }
    }

    pub(super) fn cut_over(&mut self, process: Process, link: Link) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        if let Some(since) = known.cut[link as usize].take() {
            let (lane, took) = (known.lane, words::duration(self.now - since));
            let text = format!("trouble on the link to {} for {took}", words::server(link));
            let kind = if link == Link::Store { "cut-store" } else { "cut-witness" };
            self.bar(lane, kind, since, None, link as usize, ["", &text]);
        }
    }

    pub(super) fn run_over(&mut self, process: Process, key: RunKey, how: &str) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        let Some((since, track)) = known.runs.remove(&key) else { return };
        let lane = known.lane;
        let owner = self.works_under(process);
        // Who holds the line now may be somebody else: the run's own colour is that of the token's holder.
        let owner = self.holder(key).or(owner);
        let took = words::duration(self.now - since);
        let text = format!("row {} of {} runs under token {} for {took}: {how}", key.line, key.batch, key.token);
        self.bar(lane, "run", since, owner, track, [&key.line.to_string(), &text]);
        if let Some(at) = self.batches.get(&key.batch).copied() {
            self.bar(Lane::Row(at, key.line), "run", since, owner, 0, ["", &text]);
        }
    }

    fn holder(&self, key: RunKey) -> Option<usize> {
        let at = self.batches.get(&key.batch)?;
        let open = self.lines.get(&(*at, key.line))?;
        if open.token == Some(key.token) { open.bar.owner } else { None }
    }

    pub(super) fn process_over(&mut self, process: Process, how: &str) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        if !known.alive {
            return;
        }
        known.alive = false;
        let (lane, since) = (known.lane, known.since);
        let runs: Vec<RunKey> = known.runs.keys().copied().collect();
        for key in runs {
            self.run_over(process, key, &format!("its process {how}"));
        }
        self.pause_over(process);
        self.cut_over(process, Link::Store);
        self.cut_over(process, Link::Liveness);
        self.lease_over(process);
        let (slot, nth) = place(process);
        let words = [format!("w{slot}·{nth}"), format!("process {nth} at worker place {slot}, until it {how}")];
        self.bar(lane, "life", since, None, 0, [&words[0], &words[1]]);
    }
}
