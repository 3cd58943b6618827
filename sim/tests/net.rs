//! Level 2: the network simulation, which needs `--cfg madsim`.

/// Whoever sets RUSTFLAGS switches off the flags of `.cargo/config.toml`; nobody shall believe that the simulation ran.
#[cfg(not(madsim))]
#[test]
fn madsim_cfg_is_missing() {
    panic!("the network simulation did not run. Run with RUSTFLAGS=\"$RUSTFLAGS --cfg madsim\", or without RUSTFLAGS");
}

#[cfg(madsim)]
mod with_madsim {
    use std::time::Duration;

    use madsim::runtime::{Handle, Runtime};
    use madsim::time::{Instant, sleep};

    /// Two nodes, one of which dies and comes back: time is simulated, and a run is given by its seed.
    async fn ticks() -> Vec<u128> {
        let handle = Handle::current();
        let (tell, told) = std::sync::mpsc::channel();
        let began = Instant::now();
        let node = handle
            .create_node()
            .init(move || {
                let tell = tell.clone();
                async move {
                    loop {
                        sleep(Duration::from_secs(1)).await;
                        let _ = tell.send(began.elapsed().as_millis());
                    }
                }
            })
            .build();
        sleep(Duration::from_millis(2500)).await;
        handle.kill(node.id());
        sleep(Duration::from_secs(3)).await;
        handle.restart(node.id());
        sleep(Duration::from_millis(1500)).await;
        told.try_iter().collect()
    }

    #[test]
    fn nodes_die_and_come_back_in_simulated_time() {
        let run = |seed| Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(ticks());
        let first = run(1);
        assert_eq!(first.len(), 3, "{first:?}");
        assert_eq!(first, run(1));
    }
}
