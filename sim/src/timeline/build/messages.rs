//! Faults, and requests with their replies.

use super::super::data::{Bar, Lane, Message};
use super::super::words;
use super::Builder;
use crate::fault::{Away, Fault};
use crate::trace;

impl Builder {
    pub(super) fn fault(&mut self, fault: &Fault, struck: bool) {
        let (words, lasts) = (words::fault(fault), fault.lasts_us());
        let text = if struck { words.clone() } else { format!("{words} (there is nothing to strike)") };
        self.event(Lane::Faults, if struck { "fault" } else { "miss" }, None, text.clone());
        let to = (self.now + lasts).min(self.out.end_us);
        let kind = if struck { "fault" } else { "miss" };
        let from = self.now;
        let bar = Bar { lane: Lane::Faults, kind, from, to, owner: None, track: 0, label: words, text };
        self.out.bars.push(bar);
        match fault {
            Fault::WitnessAway { how, .. } if struck => {
                let how = if *how == Away::Refuses { "refuses" } else { "stalls" };
                let (label, text) = (format!("Redis {how}"), format!("Redis {how} for {}", words::duration(lasts)));
                let bar = Bar { lane: Lane::Redis, kind: "away", from, to, owner: None, track: 0, label, text };
                self.out.bars.push(bar);
            }
            Fault::Witness(_) if struck => self.event(Lane::Redis, "loss", None, words::fault(fault)),
            _ => {}
        }
    }

    pub(super) fn sent(&mut self, message: trace::Message, to: Lane, kind: &'static str, text: String) {
        let from = self.processes.get(&message.process).map_or(Lane::Worker(0, 0), |known| known.lane);
        let owner = self.works_under(message.process);
        let message_out = Message { from, to, kind, owner, sent: self.now, done: None, heard: None, ok: false, text };
        self.messages.insert(message, self.out.messages.len());
        self.out.messages.push(message_out);
    }

    pub(super) fn arrived_again(&mut self, message: trace::Message) {
        let Some(first) = self.messages.get(&message).map(|at| self.out.messages[*at].clone()) else { return };
        let text = format!("{} (the same request arrives again)", first.text);
        self.out.messages.push(Message { done: Some(self.now), heard: None, ok: true, text, kind: "again", ..first });
    }

    pub(super) fn heard(&mut self, message: trace::Message, ok: bool, text: String) {
        let Some(at) = self.messages.get(&message).copied() else { return };
        let request = &mut self.out.messages[at];
        (request.heard, request.ok) = (Some(self.now), ok);
        let asked = request.text.clone();
        request.text = format!("{asked}; {text}");
        if !ok {
            self.at_process(message.process, "trouble", format!("{text}: {asked}"));
        }
    }
}
