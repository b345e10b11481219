//! A pass that is asked to stop ends soon, and one that is not gives the same bits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vitrim_vit::{
    Backbone, CpuBackbone, Interruptible, PixelBatch, Site, Taps, Tensors, VitError, VitSpec, Want,
};

fn backbone() -> CpuBackbone {
    let spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
    CpuBackbone::new(&spec, &Tensors::random(&spec, 1)).unwrap()
}

fn pass(session: &Interruptible<'_>, pixels: PixelBatch<'_>) -> Result<Vec<f32>, VitError> {
    let mut state = session.embed(pixels)?;
    session.advance(&mut state, Site::input_of(5), Taps::CLS_ATTENTION)?;
    session.advance(&mut state, Site::end(session.spec()), Taps::NONE)?;
    Ok(session.finish(&state, Want::Logits)?.values)
}

#[test]
fn without_the_flag_nothing_changes() {
    let backbone = backbone();
    let pixels: Vec<f32> = (0..3 * 3 * 224 * 224).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    let pixels = PixelBatch::new(&pixels, 3);
    let found = pass(&backbone.until(&AtomicBool::new(false)), pixels).unwrap();
    assert_eq!(found, backbone.dense_logits(pixels).unwrap().values);
}

#[test]
fn a_long_pass_ends_soon_after_the_flag_is_set() {
    let backbone = backbone();
    // About a tera-MAC: many seconds.
    let batch = 800;
    let pixels = vec![0.5; batch * 3 * 224 * 224];
    let stop = AtomicBool::new(false);
    let (ended, asked) = std::thread::scope(|scope| {
        let pass =
            scope.spawn(|| (pass(&backbone.until(&stop), PixelBatch::new(&pixels, batch)), Instant::now()));
        std::thread::sleep(Duration::from_millis(700));
        stop.store(true, Ordering::Relaxed);
        let asked = Instant::now();
        let (passed, ended) = pass.join().unwrap();
        assert!(matches!(passed, Err(VitError::Interrupted)), "{passed:?}");
        (ended, asked)
    });
    assert!(ended.saturating_duration_since(asked) < Duration::from_millis(500));
}

#[test]
fn every_step_refuses_once_the_flag_is_set() {
    let backbone = backbone();
    let (pixels, stop) = (vec![0.5; 3 * 224 * 224], AtomicBool::new(false));
    let pixels = PixelBatch::new(&pixels, 1);
    let session = backbone.until(&stop);
    let mut state = session.embed(pixels).unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(matches!(session.embed(pixels), Err(VitError::Interrupted)));
    let end = Site::end(session.spec());
    assert!(matches!(session.advance(&mut state, end, Taps::NONE), Err(VitError::Interrupted)));
    assert!(matches!(session.finish(&state, Want::Pooled), Err(VitError::Interrupted)));
}
