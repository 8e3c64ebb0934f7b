
/* Lists that are sorted and filtered, and players: films and curves of an episode that share one step.
   Texts of the dataset are only ever set as text, never as HTML. */
(() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const signals = JSON.parse(document.querySelector("main").dataset.signals);

  const make = (tag, css, text) => {
    const element = document.createElement(tag);
    if (css) element.className = css;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  /* A value of a signal in the decimals that its range calls for: a thousandth of it can be told. */
  const shown = (value, signal) => {
    if (!Number.isFinite(value)) return String(value);
    const largest = Math.max(Math.abs(signal.low), Math.abs(signal.high)) || 1;
    const decimals = Math.min(12, Math.max(0, 4 - Math.ceil(Math.log10(largest))));
    return String(Number(value.toFixed(decimals)) || 0).replaceAll("-", "\u2212");
  };

  /* --- players ------------------------------------------------------------------------------------ */

  const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  /* Curve of values within low and high, over the steps, in a box of height 100. */
  function curve(signal, values) {
    const span = signal.high - signal.low;
    const y = (value) => (span > 0 ? (94 - (88 * (value - signal.low)) / span).toFixed(1) : "50");
    let path = "";
    let gap = true; /* what is not a number is left out */
    values.forEach((value, i) => {
      if (Number.isFinite(value)) path += gap ? `M${i} ${y(value)}` : signal.steps ? `H${i}V${y(value)}` : `L${i} ${y(value)}`;
      gap = !Number.isFinite(value);
    });
    const last = Math.max(1, values.length - 1);
    if (values.length === 1 && path) path += "H1";
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${last} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const draw = (css, d) => {
      const element = document.createElementNS(SVG, "path");
      element.setAttribute("class", css);
      element.setAttribute("d", d);
      svg.append(element);
    };
    if (signal.low < 0 && signal.high > 0) draw("zero", `M0 ${y(0)}H${last}`);
    if (signal.steps && path) draw("area", `${path}V94H0Z`);
    draw("line", path);
    return svg;
  }

  function buildCurves(box, scrub) {
    const raw = bytesOf(box.dataset.values);
    const values = new Float32Array(raw.buffer);
    const count = values.length / signals.length;
    const stride = Number(box.dataset.stride);
    const outputs = [];
    const groups = new Map();
    signals.forEach((signal, i) => {
      const own = values.subarray(i * count, (i + 1) * count);
      if (!groups.has(signal.group)) {
        const group = make("section", `group ${signal.group}`);
        group.append(make("h3", "", signal.group));
        box.append(group);
        groups.set(signal.group, group);
      }
      const row = make("div", signal.low < signal.high ? "row" : "row still");
      const name = make("button", "name", signal.name);
      const plot = make("div", "plot");
      const output = make("span", "value");
      name.type = "button";
      name.title = `${signal.name}: ${shown(signal.low, signal)} to ${shown(signal.high, signal)} in the dataset. Press to enlarge.`;
      name.setAttribute("aria-expanded", "false");
      name.addEventListener("click", () => {
        const tall = row.classList.toggle("tall");
        name.setAttribute("aria-expanded", String(tall));
      });
      plot.append(curve(signal, own), make("i", "high", shown(signal.high, signal)), make("i", "low", shown(signal.low, signal)));
      row.append(name, plot, output);
      groups.get(signal.group).append(row);
      outputs.push([own, output, signal]);
      const at = (event) => {
        const edges = plot.getBoundingClientRect();
        const part = Math.min(1, Math.max(0, (event.clientX - edges.left) / edges.width));
        scrub(Math.round(part * (count - 1)) * stride, event.type === "pointerdown");
      };
      plot.addEventListener("pointermove", at);
      plot.addEventListener("pointerdown", at);
    });
    return (step) => {
      const i = Math.min(count - 1, Math.floor(step / stride));
      for (const [own, output, signal] of outputs) output.textContent = shown(own[i], signal);
    };
  }

  /* A film as a video: its data become a file in memory, for some browsers cannot seek in a data address. */
  function videoFilm(video, rate) {
    const source = video.getAttribute("src");
    const stride = Number(video.dataset.stride);
    const frames = Number(video.dataset.frames);
    const kind = source.slice(5, source.indexOf(";"));
    let address = "";
    let wanted = null;
    let refused = false;
    video.controls = false;
    const timeOf = (step) => ((Math.min(frames - 1, Math.floor(step / stride)) + 0.5) * stride) / rate;
    const seek = () => {
      if (wanted === null || video.seeking || video.readyState < 1) return;
      const time = wanted;
      wanted = null;
      if (Math.abs(video.currentTime - time) > 1e-4) video.currentTime = time;
    };
    for (const event of ["seeked", "loadedmetadata"]) video.addEventListener(event, seek);
    video.addEventListener("error", () => {
      if (!address) return;
      const text = "This browser cannot play H.264; open the page in Chrome, Edge, Firefox or Safari.";
      video.replaceWith(make("p", "broken", text));
    });
    return {
      open() {
        address = URL.createObjectURL(new Blob([bytesOf(source.slice(source.indexOf(",") + 1))], { type: kind }));
        video.preload = "auto";
        video.src = address;
        video.load();
      },
      close() {
        video.pause();
        URL.revokeObjectURL(address);
        address = "";
        video.preload = "none";
        video.removeAttribute("src");
        video.load();
      },
      show(step) {
        wanted = timeOf(step);
        seek();
      },
      play(step, speed) {
        wanted = null;
        const time = timeOf(step);
        if (Math.abs(video.currentTime - time) > 0.75 * (stride / rate)) video.currentTime = time;
        video.playbackRate = speed;
        refused = false;
        video.play().catch(() => (refused = true));
      },
      /* The step that is shown while it plays: Infinity after the end, null before the start, undefined where it does not. */
      step() {
        if (video.ended) return Infinity;
        if (refused || video.error || !address) return undefined;
        return video.paused || video.seeking ? null : video.currentTime * rate;
      },
      pause() {
        video.pause();
      },
      /* Brings it back where it runs apart from the clock by more than two frames. */
      follow(step) {
        const frame = stride / rate;
        if (!video.seeking && !video.ended && Math.abs(video.currentTime - timeOf(step)) > 2 * frame + 0.05)
          video.currentTime = timeOf(step);
      },
    };
  }

  /* A film as one picture with all frames: a canvas shows one of them. */
  function sheetFilm(image) {
    const { columns, frames, stride } = Object.fromEntries(
      ["columns", "frames", "stride"].map((key) => [key, Number(image.dataset[key])]),
    );
    const canvas = make("canvas");
    canvas.width = image.width;
    canvas.height = image.height;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", image.alt);
    const [width, height] = [image.width, image.height];
    let drawn = 0;
    const draw = (frame) => {
      drawn = frame;
      const [x, y] = [width * (frame % columns), height * Math.floor(frame / columns)];
      canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
    };
    image.replaceWith(canvas);
    image.decode().then(() => draw(drawn), () => {});
    const show = (step) => draw(Math.min(frames - 1, Math.floor(step / stride)));
    return { open() {}, close() {}, show, play() {}, pause() {}, follow: show };
  }

  function player(details) {
    const box = details.querySelector(".player");
    const [rate, steps, solved] = ["rate", "steps", "solved"].map((key) => Number(box.dataset[key]));
    const films = [
      ...[...box.querySelectorAll("video")].map((video) => videoFilm(video, rate)),
      ...[...box.querySelectorAll("img.sheet")].map(sheetFilm),
    ];
    const transport = box.querySelector(".transport");
    const [button, slider, speed, now] = [".play", "input", ".speed", ".now"].map((s) => transport.querySelector(s));
    const starts = JSON.parse(box.dataset.starts ?? "[]"); /* [first step, instruction] where it changes */
    let step = 0;
    let timer = 0;

    const tell = buildCurves(box.querySelector(".curves"), (to, pressed) => {
      if (pressed) pause();
      if (!timer) goTo(to);
    });
    const place = (at) => `${(100 * at) / Math.max(1, steps - 1)}%`;
    if (solved >= 0) box.style.setProperty("--solved", place(solved));
    box.classList.toggle("solved", solved >= 0);
    slider.max = String(steps - 1);
    transport.hidden = false;

    function update(to) {
      step = Math.min(steps - 1, Math.max(0, to));
      slider.value = String(step);
      const asked = starts.findLast(([first]) => first <= step);
      const text = `step ${step} of ${steps - 1}, ${(step / rate).toFixed(2)} s${asked ? `: ${asked[1]}` : ""}`;
      slider.setAttribute("aria-valuetext", text);
      now.textContent = text;
      box.style.setProperty("--at", place(step));
      tell(step);
    }
    function goTo(to) {
      update(to);
      for (const film of films) film.show(step);
    }
    function pause() {
      if (!timer) return;
      cancelAnimationFrame(timer);
      timer = 0;
      button.textContent = "Play";
      for (const film of films) film.pause();
      goTo(step);
    }
    function play() {
      const factor = Number(speed.value);
      if (step >= steps - 1) update(0);
      let exact = step;
      let before = performance.now();
      for (const film of films) film.play(step, factor);
      button.textContent = "Pause";
      const tick = (time) => {
        const film = films[0]?.step?.(); /* the first film is the clock, where there is one */
        if (film === undefined) exact += Math.max(0, ((time - before) / 1000) * rate * factor);
        else if (film !== null) exact = film;
        before = time;
        if (Math.floor(exact) !== step) {
          update(Math.floor(exact));
          for (const other of films.slice(film === undefined ? 0 : 1)) other.follow(step);
        }
        if (exact >= steps) pause();
        else timer = requestAnimationFrame(tick);
      };
      timer = requestAnimationFrame(tick);
    }
    button.addEventListener("click", () => (timer ? pause() : play()));
    speed.addEventListener("change", () => {
      if (!timer) return;
      pause();
      play();
    });
    slider.addEventListener("input", () => {
      const to = Number(slider.value);
      pause();
      goTo(to);
    });
    transport.querySelector(".jump")?.addEventListener("click", (event) => {
      pause();
      goTo(Number(event.currentTarget.dataset.step));
    });
    return {
      open() {
        for (const film of films) film.open();
        goTo(step);
      },
      close() {
        pause();
        for (const film of films) film.close();
      },
    };
  }

  const players = new Map();
  function toggled(details) {
    const known = players.get(details);
    if (details.open && !known?.isOpen) {
      const built = known?.player ?? player(details);
      players.set(details, { player: built, isOpen: true });
      built.open();
    } else if (!details.open && known?.isOpen) {
      players.set(details, { player: known.player, isOpen: false });
      known.player.close();
    }
  }
  const episodes = [...document.querySelectorAll("details.episode")];
  for (const details of episodes) {
    details.addEventListener("toggle", () => toggled(details));
    toggled(details);
  }

  function jumpTo() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target?.classList.contains("episode")) return;
    target.hidden = false;
    target.open = true;
    target.scrollIntoView();
  }
  window.addEventListener("hashchange", jumpTo);
  jumpTo();

  /* --- lists -------------------------------------------------------------------------------------- */

  const by = (read, sign) => (a, b) => {
    const [x, y] = [read(a), read(b)];
    return sign * (typeof x === "number" ? x - y : collator.compare(x, y));
  };

  const controls = document.querySelector(".controls");
  const list = document.querySelector(".list");
  const [search, task, success] = ["input", ".by-task", ".by-success"].map((s) => controls.querySelector(s));
  const count = controls.querySelector(".count");
  controls.hidden = false;

  function filter() {
    const words = search.value.trim().toLowerCase();
    let left = 0;
    for (const details of episodes) {
      const { episode, task: text, tasks, success: outcome } = details.dataset;
      const fits =
        (!words || text.toLowerCase().includes(words) || episode === words) &&
        (!task?.value || JSON.parse(tasks).includes(task.value)) &&
        (!success?.value || outcome === success.value);
      details.hidden = !fits;
      if (!fits) details.open = false;
      left += fits;
    }
    count.textContent = left === episodes.length ? `${left} shown` : `${left} of ${episodes.length} shown`;
  }
  for (const input of [search, task, success]) input?.addEventListener("input", filter);
  filter();

  const buttons = [...controls.querySelectorAll(".order button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const again = button.getAttribute("aria-pressed") === "true" && button.dataset.way === "up";
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(other === button));
        delete other.dataset.way;
      }
      button.dataset.way = again ? "down" : "up";
      const { key } = button.dataset;
      const read = (details) => (key === "task" ? details.dataset.task : Number(details.dataset[key]));
      list.append(...episodes.sort(by(read, again ? -1 : 1)));
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button")?.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const read = (row) => {
          const cell = row.cells[column];
          return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
        };
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(by(read, up ? 1 : -1)));
      });
    });
  }
})();
