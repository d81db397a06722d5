{
  const article = document.currentScript.closest("article");
  for (const button of article.querySelectorAll("[data-toggle]")) button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    for (const part of article.querySelectorAll("[data-method]")) if (part.dataset.method === button.dataset.toggle) part.classList.toggle("off", !on);
  });
  for (const slider of article.querySelectorAll("[data-scrub]")) {
    const figure = slider.closest("figure"), play = figure.querySelector("[data-play]");
    const paths = [...figure.querySelectorAll(".path")].map(line => ({ line, head: line.parentNode.querySelector(".head"), points: line.dataset.points.split(" ") }));
    const show = () => {
      for (const { line, head, points } of paths) {
        const shown = points.slice(0, +slider.value + 1), [x, y] = shown[shown.length - 1].split(",");
        line.setAttribute("points", shown.join(" ")); head.setAttribute("cx", x); head.setAttribute("cy", y);
      }
      figure.querySelector("output").textContent = "step " + slider.value;
    };
    let playing = 0;
    const stop = () => { cancelAnimationFrame(playing); playing = 0; play.textContent = "play"; };
    slider.addEventListener("input", () => { stop(); show(); });
    play.addEventListener("click", () => {
      if (playing) return stop();
      const began = performance.now(), from = +slider.value < +slider.max ? +slider.value : 0;
      play.textContent = "stop";
      const frame = now => {
        slider.value = Math.min(+slider.max, Math.round(from + (now - began) / 6000 * +slider.max)); show();
        if (+slider.value < +slider.max) playing = requestAnimationFrame(frame); else stop();
      };
      playing = requestAnimationFrame(frame);
    });
  }
}
