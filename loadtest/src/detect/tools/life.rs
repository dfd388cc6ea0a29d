//! Work that goes on inside a namespace until its owner drops it.

use std::future::Future;
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use tokio::sync::oneshot;

use crate::lab::Namespace;

/// A thread inside a namespace, with a runtime of its own. Dropping it ends the work.
pub struct Life {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Life {
    /// Begins it and waits until `settle` is done; what that made is lived by `live`.
    pub fn begin<T, F>(
        namespace: &Namespace,
        settle: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
        live: impl FnOnce(T) -> F + Send + 'static,
    ) -> anyhow::Result<Self>
    where
        T: 'static,
        F: Future<Output = ()>,
    {
        let namespace = namespace.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (settled, begun) = std::sync::mpsc::channel::<anyhow::Result<()>>();
        let failed = settled.clone();
        let thread = thread::spawn(move || {
            let lived = namespace.run(move || -> anyhow::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let _inside = runtime.enter();
                let made = settle()?;
                let _ = settled.send(Ok(()));
                runtime.block_on(async {
                    tokio::select! {
                        () = live(made) => (),
                        _ = stopped => (),
                    }
                });
                Ok(())
            });
            if let Err(error) = lived.map_err(anyhow::Error::from).flatten() {
                let _ = failed.send(Err(error));
            }
        });
        let begun = begun.recv().context("a host's thread ended at once")?;
        begun?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
