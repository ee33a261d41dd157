/* What the app needs beyond the widgets of ipywidgets, in every place where it is shown. `this` is a
   hidden picture inside of the app: sizes are checked before files are sent, many files are sent
   in portions, files may be dropped, and a click on a small picture moves the enlarged piece. */
const image = this, limit = Number(image.dataset.limit), expected = Number(image.dataset.uploads);

/* The file input of an upload button, which ipywidgets keeps outside of the page. */
function inputOf(button) {
  const click = HTMLInputElement.prototype.click;
  let input;
  HTMLInputElement.prototype.click = function () { input = this; };
  try { button.click(); } finally { HTMLInputElement.prototype.click = click; }
  return input;
}

function start(app, inputs) {
  const box = image.previousElementSibling, queue = [];
  let sending = false, passing = false;
  const say = (words) => { box.textContent = words; box.hidden = !words; };
  const received = () => Number(app.querySelector('.unetlib-received')?.dataset.count || 0);

  /* Files to one input, as many at a time as the server takes in one message. */
  function next() {
    app.classList.toggle('unetlib-sending', queue.length > 0);
    sending = queue.length > 0;
    if (!sending) return;
    const input = queue[0][0], files = new DataTransfer(), before = received(), began = Date.now();
    let size = 0;
    while (queue.length && queue[0][0] === input && (size += queue[0][1].size) <= limit * 1e6)
      files.items.add(queue.shift()[1]);
    input.files = files.files;
    passing = true;
    input.dispatchEvent(new Event('change'));
    passing = false;
    const wait = setInterval(() => {
      if (received() === before && Date.now() - began < 120000) return;
      clearInterval(wait);
      const failed = app.querySelector('.unetlib-error:not(.unetlib-refused)');
      if (queue.length && failed) say(`${box.textContent} ${failed.textContent}`);
      next();
    }, 40);
  }

  function take(input, files) {
    const large = files.filter((file) => file.size > limit * 1e6);
    const sizes = large.map((file) => `${file.name} has ${(file.size / 1e6).toFixed(0)} MB`);
    say(large.length ? `${sizes.join(', ')}: files of up to ${limit} MB get through to the app. ` +
      'Save it smaller, or use the command unetlib cut.' : '');
    for (const file of files) if (!large.includes(file)) queue.push([input, file]);
    if (!sending) next();
  }

  for (const input of inputs)
    input.addEventListener('change', (event) => {
      if (passing) return;
      event.stopImmediatePropagation();
      take(input, [...input.files]);
    }, true);

  const holdsFiles = (event) => inputs.length && [...event.dataTransfer.types].includes('Files');
  app.addEventListener('dragover', (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    event.stopPropagation();
    app.classList.add('unetlib-dropping');
  });
  app.addEventListener('dragleave', (event) => {
    if (!app.contains(event.relatedTarget)) app.classList.remove('unetlib-dropping');
  });
  app.addEventListener('drop', (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    event.stopPropagation();
    app.classList.remove('unetlib-dropping');
    const behind = event.target.closest('.unetlib-backdrop');
    take(inputs[behind ? 1 : 0], [...event.dataTransfer.files]);
  });

  app.addEventListener('click', (event) => {
    const picture = event.target;
    if (picture.tagName !== 'IMG' || !picture.closest('.unetlib-look')) return;
    const field = app.querySelector('.unetlib-hidden input'), to = picture.getBoundingClientRect();
    const scale = Math.min(to.width / picture.naturalWidth, to.height / picture.naturalHeight);
    const share = (at, from, length, pixels) => 0.5 + (at - from - length / 2) / (pixels * scale);
    const x = share(event.clientX, to.left, to.width, picture.naturalWidth);
    const y = share(event.clientY, to.top, to.height, picture.naturalHeight);
    field.value = `${x.toFixed(4)} ${y.toFixed(4)}`;
    for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, { bubbles: true }));
  });
}

/* The widgets around the picture may come later than itself. */
function wait(tries) {
  const app = image.closest('.unetlib-app');
  const buttons = app ? [...app.querySelectorAll('.widget-upload')] : [];
  if (app && buttons.length >= expected) start(app, buttons.map(inputOf));
  else if (tries) setTimeout(wait, 100, tries - 1);
}
wait(300);
